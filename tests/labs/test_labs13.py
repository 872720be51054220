"""The lab of lesson 13, without a browser: real processes, their numbers against the dense oracle, and none left."""

import os
import re
import subprocess
import sys
import time
from html import unescape

import psutil
import pytest
import torch
from torch.nn.functional import gelu

from shardlab import labs
from shardlab.labs import lab13_ranks

pytestmark = pytest.mark.ranks
CASES = [(ranks, how, when) for ranks in (1, 2, 3, 4) for how in ("column", "row") for when in ("before", "after")]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    yield
    lab13_ranks.pools.close()


def words(html):
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)).split()))


def oracle(ranks, how, when):
    """y by plain torch."""
    X, W = labs.seed_data()
    if how == "row" and when == "before":
        pairs = zip(X.tensor_split(ranks, dim=1), W.tensor_split(ranks, dim=0), strict=True)
        return sum(gelu(x @ w) for x, w in pairs)
    return gelu(X @ W)


@pytest.mark.parametrize(("ranks", "how", "when"), CASES)
def test_the_ranks_compute_what_plain_torch_does(ranks, how, when):
    ran = labs.ranks_result(ranks, how, when)
    assert len(set(ran.real.pids)) == ranks and os.getpid() not in ran.real.pids and ran.kernel.pids == [os.getpid()]
    assert len(ran.real.y_.shards) == len(ran.real.parts_.shards) == ranks
    for y in ran.real.y_.shards:
        torch.testing.assert_close(y, oracle(ranks, how, when))
    assert ran.close.passed == (how == "column" or when == "after" or ranks == 1)
    assert ran.same and ran.real.traffic.names == [{"column": "all_gather", "row": "all_reduce"}[how]]
    assert [call.payload for call in ran.real.traffic] == [32]


@pytest.mark.parametrize(("ranks", "how", "when"), CASES[::3])
def test_the_picture_says_it(ranks, how, when):
    html = labs.ranks_picture(ranks, how, when).data
    ran = labs.ranks_result(ranks, how, when)
    for rank, pid in enumerate(ran.real.pids):
        assert f"rank {rank} is process {pid}" in words(html)
        assert html.count(f"shard {rank} · process {pid}") == 2  # its part, and its y
    for value in ran.real.y_.shards[-1].flatten().tolist():
        assert html.count(f">{value:.4f}</text>") >= ranks
    assert "✓ Same as the kernel's own mesh" in words(html)
    assert f"One {'all_gather' if how == 'column' else 'all_reduce'}" in words(html)
    assert ("✓ Match." in words(html)) == ran.close.passed != ("✗ Mismatch." in words(html))


def test_a_difference_would_be_seen():
    ran = labs.ranks_result(2, "row")
    ran.real.y_.shards[1][0, 0] += 1e-3
    assert not ran.same and ran.apart == pytest.approx(1e-3, rel=1e-2)
    assert "✗ Not as on the kernel's own mesh: the largest difference is 0.001" in words(
        lab13_ranks.beside_the_kernel(ran)
    )
    ran = labs.ranks_result(2, "row")
    ran.real.traffic.clear()
    assert not ran.same


def test_the_processes_stay_until_the_number_of_ranks_changes():
    lab = labs.ranks()
    first = labs.ranks_result(2).real.pids
    lab.controls["how"].value, lab.controls["when"].value = "row", "before"
    assert all(f"process {pid}" in lab.screen.value for pid in first)
    lab.controls["ranks"].value = 3
    assert not any(f"process {pid}<" in lab.screen.value for pid in first)
    lab.controls["ranks"].value = 2
    assert all(f"process {pid}" in lab.screen.value for pid in first)


def test_close_leaves_no_process_and_the_next_picture_has_new_ones():
    lab = labs.ranks(ranks=3)
    pids = labs.ranks_result(3).real.pids + labs.ranks_result(1).real.pids
    assert all(map(psutil.pid_exists, pids))
    lab.close()
    assert not any(map(psutil.pid_exists, pids)) and not lab13_ranks.pools.pools
    assert not set(pids) & set(labs.ranks_result(3).real.pids)


def test_a_rank_that_is_killed_is_named_and_the_next_picture_is_right_again():
    lab = labs.ranks()
    psutil.Process(labs.ranks_result(2).real.pids[1]).kill()
    lab.controls["how"].value = "row"
    assert re.search("RankError: rank 1 .* SIGKILL", words(lab.screen.value))
    lab.controls["how"].value = "column"
    assert "✓ Match." in words(lab.screen.value)


def test_nothing_outlives_the_program():
    program = "from shardlab import labs; lab = labs.ranks(ranks=4); print(*labs.ranks_result(4).real.pids, flush=True)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    pids, limit = [int(pid) for pid in ran.stdout.split()], time.monotonic() + 10
    assert len(pids) == 4 and not ran.stderr, ran.stderr
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("late", [0, 7, 20])
def test_who_is_late_keeps_the_others_waiting(late):
    sums, timeline = labs.gates_result(late)
    (gate,) = timeline.gates.values()
    assert sums == [6] * 4 and sorted(gate) == [0, 1, 2, 3]
    assert 1000 * (gate[1].came - timeline.lanes[1].began) >= late
    assert min(visit.opened for visit in gate.values()) >= max(visit.came for visit in gate.values())
    said = words(labs.gates_picture(late).data)
    waited = re.search(r"Rank (\d) came last. The others had waited for ([\d.]+), ([\d.]+), ([\d.]+) ms; then", said)
    last = max(gate, key=lambda rank: gate[rank].came)
    assert int(waited[1]) == last
    others = [1000 * (visit.opened - visit.came) for rank, visit in gate.items() if rank != last]
    assert [float(said) for said in waited.groups()[1:]] == pytest.approx(others, abs=0.051)


def test_the_later_it_comes_the_longer_the_work_is_drawn():
    def first_bar(html):
        return re.search(r'width="([\d.]+)" height="20" fill="#D55E00"/>', html.partition("rank 1</text>")[2])[1]

    early, late = (labs.gates_picture(ms).data for ms in (0, 20))
    assert float(first_bar(late)) > float(first_bar(early)) + 20


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_an_answer_is_quick_once_the_ranks_are_there(ranks, record_property):
    lab = labs.ranks(ranks=ranks)
    times = []
    for how in ["row", "column"] * 10:
        start = time.perf_counter()
        lab.controls["how"].value = how
        times.append(time.perf_counter() - start)
    record_property(
        f"a change on {ranks} ranks, median and best", f"{sorted(times)[10] * 1e3:.0f}, {min(times) * 1e3:.0f} ms"
    )
    assert min(times) < 1  # the figure is shown, and does not decide
