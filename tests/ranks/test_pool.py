"""`ranks(n)`: lessons on real ranks, what they give, and every fault that a rank, a lesson or the kernel can have."""

import inspect
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy
import psutil
import pytest
import ranks_program
import torch
from torch.nn.functional import gelu

import forked
from shardlab import Mesh, Shards

pytest.importorskip("cloudpickle")  # where torch is the system's
from shardlab.ranks import Pool, RankError, forks, ranks
from shardlab.ranks import pool as room

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]
SOON = 10  # seconds in which any fault is told, however busy the machine; the measured time is shown


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where this module's temporary folders are, to see that none is left."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("ranks"))
    os.environ["SHARDLAB_DEVICES"] = "cpu"
    yield Path(tempfile.tempdir)
    del os.environ["SHARDLAB_DEVICES"]
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def pool(folder):
    with ranks(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def pools(pool):
    with ranks(1) as one, ranks(2) as two, ranks(dp=2, tp=2) as crossed:
        yield {"1": one, "2": two, "4": pool, "2×2": crossed}


# lessons


def columns(mesh, X, W):
    X_, W_ = mesh.replicate(X.clone().requires_grad_()), mesh.shard(W.clone().requires_grad_(), dim=1)
    y_ = mesh.all_gather(gelu(mesh.copy(X_) @ W_), dim=1)
    (y_ * y_).sum().backward()
    return y_, {"X": X_.grad, "W": W_.grad}


def rows(mesh, X, W):
    X_, W_ = mesh.shard(X, dim=1), mesh.shard(W.clone().requires_grad_(), dim=0)
    y_ = mesh.all_reduce(X_ @ W_)
    (y_ * y_).sum().backward()
    return y_, {"W": W_.grad}


def crossed(mesh, X, W):
    X_, W_ = mesh["dp"].shard(X, dim=0), mesh["tp"].shard(W, dim=1)
    return mesh["tp"].all_gather(X_ @ W_, dim=1), {"rank": mesh["dp"].rank}


def healthy(mesh):
    return mesh.all_reduce(mesh.rank)


def ones(mesh):
    return mesh.replicate(torch.ones(2, 3))


def runs(pid):
    """Is this a process that has not ended? (who has lost its parent waits for another to take note)"""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# what a run gives


@pytest.mark.parametrize(("size", "lesson"), [(n, f) for f in (columns, rows) for n in "124"] + [("2×2", crossed)])
def test_the_same_values_gradients_and_traffic_as_in_one_process(pools, size, lesson):
    pool = pools[size]
    X, W = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    y_, more = pool.run(lesson, X, W)
    mesh = Mesh(devices=["cpu"], **pool.mesh.axes)
    with mesh.record() as traffic:
        want_, want = lesson(mesh, X, W)
    for got, expected in [(y_, want_), *((more[key], want[key]) for key in want)]:
        assert len(got.shards) == pool.size and got.shards[0].numel()
        for tensor, other in zip(got.shards, expected.shards, strict=True):
            torch.testing.assert_close(tensor, other)
    assert pool.traffic == traffic and pool.traffic
    assert repr(pool.traffic) == repr(traffic)


def test_shards_show_that_they_come_from_real_ranks(pool):
    y_ = pool.run(ones)
    assert repr(y_).startswith("Shards of 4 on cpu, from 4 real ranks, which talk over gloo\nshard 0 [2, 3]")
    assert "from 4 real ranks, which talk over gloo" in y_._repr_html_()
    assert (y_ + 1).sum().shards == [12] * 4  # and they go on as Shards of this process


def test_each_rank_is_a_process_of_its_own(pool):
    pids = pool.run(lambda mesh: os.getpid())
    assert pids == pool.pids and len({*pids, os.getpid()}) == 5
    assert pool.run(lambda mesh: os.getpid()) == pids  # and stays


def test_shards_go_to_the_ranks_one_each(pool):
    x_ = Mesh(4, devices=["cpu"]).shard(torch.arange(8), dim=0)
    assert [t.tolist() for t in pool.run(lambda mesh, x_: x_ + 1, x_).shards] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert pool.run(lambda mesh: x_.sum().item()) == [1, 5, 9, 13]  # captured
    with pytest.raises(RankError, match="a Shards of 2 came to 4 ranks"):
        pool.run(lambda mesh, x_: x_, Mesh(2, devices=["cpu"]).replicate(torch.ones(1)))


TENSORS = [
    torch.randn(3, 4, dtype=torch.bfloat16),
    torch.randn(5, 4).T[1:3],
    torch.tensor(2.5),
    torch.empty(0, 3),
    torch.tensor([1 + 2j]).conj(),
    torch.tensor([True, False]),
    torch.ones(2, requires_grad=True),
]


def test_tensors_travel_as_they_are(pools):
    for back in pools["2"].run(lambda mesh, *tensors: list(tensors), *TENSORS):
        for tensor, sent in zip(back, TENSORS, strict=True):
            assert tensor.dtype is sent.dtype and tensor.shape == sent.shape
            assert tensor.requires_grad == sent.requires_grad and torch.equal(tensor, sent)


def test_a_donated_partial_sum_gives_its_memory(pools):
    def lesson(mesh, donate):
        p_ = mesh.replicate(torch.ones(3))
        y_ = mesh.all_reduce(p_, donate=donate)
        return y_, p_.shards[0].data_ptr() == y_.shards[0].data_ptr(), p_.shards[0].tolist()

    for donate, left in [(False, [1.0] * 3), (True, [2.0] * 3)]:
        y_, same, p = pools["2"].run(lesson, donate)
        assert [shard.tolist() for shard in y_.shards] == [[2.0] * 3] * 2
        assert same == [donate] * 2 and p == [left] * 2


def test_other_results_come_back_by_rank(pools):
    two = pools["2"]
    assert two.run(lambda mesh: None) == [None, None]
    assert two.run(lambda mesh: (mesh.rank.item(), "a")) == [(0, "a"), (1, "a")]
    y_, losses = two.run(lambda mesh: (mesh.rank, float(mesh.ranks[0])))
    assert y_.shards == [0, 1] and losses == [0, 1]
    assert two.run(lambda mesh: (mesh.rank,) if mesh.ranks[0] else None)[0] is None


def test_what_ranks_print_is_shown_by_rank(pools, capsys):
    pools["2"].run(lambda mesh: print("I am", mesh.ranks[0], "\nhere"))
    assert capsys.readouterr().out == "rank 0: I am 0 \nrank 0: here\nrank 1: I am 1 \nrank 1: here\n"


def test_what_a_notebook_defines_goes_by_value(pools):
    cell = {"__name__": "__main__", "torch": torch}
    exec("scale = 3\ndef helper(x): return scale * x\ndef lesson(mesh, X): return helper(mesh.replicate(X))", cell)
    for scale in (3, 5):  # changed between two runs, and it counts
        cell["scale"] = scale
        assert pools["2"].run(cell["lesson"], torch.ones(1)).shards == [scale, scale]
    assert pools["2"].run(partial(cell["lesson"], X=torch.ones(1))).shards == [5, 5]


def test_the_ranks_draw_numbers_of_their_own(pool):
    drawn = pool.run(lambda mesh: torch.rand(1).item())
    assert len(set(drawn)) == 4


def test_a_pool_says_what_it_is(pool, monkeypatch):
    monkeypatch.setattr("shardlab.ranks.pool.count_cores", lambda: 2)
    assert repr(pool) == (
        "ranks(4): 4 processes, one shard each, which talk over gloo; they take turns on 2 cores: right results, "
        "but no measure of 4 machines"
    )
    monkeypatch.setattr("shardlab.ranks.pool.count_cores", lambda: 4)
    assert repr(pool) == "ranks(4): 4 processes, one shard each, which talk over gloo"
    monkeypatch.setattr(pool, "devices", [torch.device("cuda", 0)] * 4)
    assert "share 1 GPU, and nccl wants one for each rank: their values pass through host memory" in repr(pool)


def test_many_more_ranks_than_cores():
    with ranks(12) as pool:
        assert pool.run(healthy).shards == [66] * 12
        assert len(set(pool.pids)) == 12


def test_starting_and_calling_take_little(pool, record_property):
    begin = time.perf_counter()
    with ranks(4):
        record_property("4 ranks start in", f"{1000 * (time.perf_counter() - begin):.0f} ms")
    for n, some in ((4, pool), (2, ranks(2))):
        times = []
        for _ in range(30):
            begin = time.perf_counter()
            some.run(healthy)
            times.append(time.perf_counter() - begin)
        record_property(f"a call with an all-reduce on {n} ranks", f"{1000 * sorted(times)[15]:.1f} ms")
        memory = [psutil.Process(pid).memory_full_info().uss / 2**20 for pid in some.pids]
        record_property(f"memory of each of {n} ranks", f"{max(memory):.0f} MB")
    some.close()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
@pytest.mark.parametrize("size", [1, 2])
def test_on_gpus(monkeypatch, size):
    """With a GPU for each rank they talk over nccl; where they share one, over gloo, and they say so."""
    monkeypatch.delenv("SHARDLAB_DEVICES")
    X, W = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    with ranks(size) as some:
        shared = size > torch.cuda.device_count()
        assert ("over gloo; they share" in repr(some)) == shared and ("over nccl" in repr(some)) != shared
        assert all(device.startswith("cuda") for device in some.run(lambda mesh: str(mesh.devices[0])))
        y_, more = some.run(columns, X, W)
        want_, want = columns(Mesh(size, devices=["cpu"]), X, W)
        for got, expected in [(y_, want_), *((more[key], want[key]) for key in want)]:
            for tensor, other in zip(got.shards, expected.shards, strict=True):
                torch.testing.assert_close(tensor, other)
        with pytest.raises(RankError, match="rank 0 raised"):
            some.run(lambda mesh: mesh.all_reduce(mesh.rank) if mesh.ranks[0] else oops)  # noqa: F821
        assert some.run(healthy).shards == [sum(range(size))] * size


# one rank has a fault, the others are innocent


def on(guilty):
    """A decorator: the fault on this rank, and an all-reduce that it should have come to on all."""

    def decorate(fault):
        def lesson(mesh):
            if mesh.ranks[0] == guilty:
                fault()
            return mesh.all_reduce(mesh.replicate(torch.ones(2)))

        lesson.__name__ = fault.__name__
        return lesson

    return decorate


@on(2)
def raises():
    return {}["missing"]


@on(2)
def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


@on(2)
def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)


@on(2)
def exits_with_0():
    os._exit(0)


@on(2)
def leaves():
    sys.exit(0)


@on(2)
def sleeps():
    time.sleep(1000)


@on(2)
def spins_in_c():
    sum(range(10**13))  # without a moment for Python


@on(2)
def fills_its_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    torch.ones(2**30)


@on(2)
def fills_pythons_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    bytearray(2**30)


def returns_early(mesh):
    if mesh.ranks[0] != 2:
        mesh.all_reduce(mesh.rank)


def dies_after_a_collective(mesh):
    for step in range(100):
        if mesh.ranks[0] == 2 and step == 50:
            os._exit(0)
        mesh.all_reduce(mesh.rank)


def returns_a_lock(mesh):
    return threading.Lock() if mesh.ranks[0] == 2 else None


ALONE = {
    raises: r"rank 2 raised KeyError: 'missing'\n.* at raises, line \d+ of test_pool.py: return {}\[\"missing\"\]",
    is_killed: r"rank 2 died of SIGKILL, sent by someone, or by the system when memory ran out",
    crashes: r"rank 2 died of SIGSEGV",
    exits_with_0: r"rank 2 ended with exit status 0",
    leaves: r"rank 2 left the lesson with sys.exit\(0\)",
    sleeps: r"rank 2 did not come to all_reduce sum at lesson, line \d+ of .*, where rank 0 has waited for 1 s: "
    r"it is at sleeps, line \d+ of test_pool.py: time.sleep\(1000\)",
    spins_in_c: r"rank 2 did not come .*it is at spins_in_c, line \d+",
    fills_its_memory: r"rank 2 ran out of memory: RuntimeError: .*can't allocate memory",
    fills_pythons_memory: r"rank 2 ran out of memory: MemoryError",
    returns_early: r"rank 2 returned without coming to all_reduce sum at returns_early, .*, where rank [013] waits",
    dies_after_a_collective: r"rank 2 ended with exit status 0",
    returns_a_lock: r"rank 2 raised CannotShip: what the lesson returned cannot be sent to the kernel: .*lock",
}


def fault_of(pool, lesson, record_property, *args, limit=1.0):
    """The error of a lesson, told soon; nothing is left of the ranks, and the pool goes on."""
    pool.run(healthy)
    pids, folder = pool.pids, Path(pool.folder)
    assert folder.exists()
    begin = time.perf_counter()
    with pytest.raises(RankError) as told:
        pool.run(lesson, *args, limit=limit)
    seconds = time.perf_counter() - begin
    record_property("told after", f"{seconds:.2f} s")
    assert seconds < SOON
    assert not [pid for pid in pids if runs(pid)]
    assert not folder.exists()
    assert str(told.value).endswith("All ranks were ended; the next run starts new ones.")
    assert pool.run(healthy).shards == [sum(range(pool.size))] * pool.size
    return told.value


@pytest.mark.parametrize("lesson", ALONE, ids=lambda lesson: lesson.__name__)
def test_the_error_names_the_guilty_rank_alone(pool, lesson, record_property):
    error = fault_of(pool, lesson, record_property)
    assert error.ranks == [2], error
    assert re.match(ALONE[lesson], str(error), re.DOTALL), error


def test_after_5_seconds_one_is_told_what_is_awaited_and_30_are_the_limit(pools, monkeypatch, capfd):
    assert (room.PATIENCE, room.LIMIT, inspect.signature(Pool.run).parameters["limit"].default) == (5, 30, 30)

    def slow(mesh):
        time.sleep(1.0 * mesh.ranks[0])
        return mesh.all_reduce(mesh.rank)

    monkeypatch.setattr(room, "PATIENCE", 0.3)
    assert pools["2"].run(slow).shards == [1, 1]
    said = capfd.readouterr().err
    assert re.fullmatch(
        r"After 0.3 s rank 0 waits in all_reduce sum at slow, line \d+ of test_pool.py, for rank 1. "
        r"\(After 30 s it is an error: run\(…, limit=…\).\)\n", said), said  # fmt: skip
    pools["2"].run(lambda mesh: time.sleep(1.0))
    said = capfd.readouterr().err
    assert said == "After 0.3 s ranks 0 and 1 have not returned. (After 30 s it is an error: run(…, limit=…).)\n"
    pools["2"].run(lambda mesh: time.sleep(1.0), limit=600)
    assert not capfd.readouterr().err, "who sets a limit knows"


@pytest.mark.parametrize("limit", [None, "5", -1, 0, float("nan"), True, [5], 1j])
def test_a_limit_is_a_time(pool, limit):
    pids = pool.pids
    with pytest.raises(ValueError, match=r"wants a number of seconds above 0, such as limit=60 .*limit=float\('inf'\)"):
        pool.run(healthy, limit=limit)
    assert pool.pids == pids
    for limit in (60, float("inf"), numpy.float32(60), numpy.int64(60)):
        assert pool.run(healthy, limit=limit).shards == [6] * 4


def test_slow_is_no_fault_within_the_limit(pools):
    def slow(mesh):
        time.sleep(1.5 * mesh.ranks[0])
        return mesh.all_reduce(mesh.rank)

    assert pools["2"].run(slow).shards == [1, 1]
    with pytest.raises(RankError, match="rank 1 did not come"):
        pools["2"].run(slow, limit=0.5)


def test_ranks_that_all_do_nothing(pools, record_property):
    error = fault_of(pools["2"], lambda mesh: time.sleep(1000), record_property)
    assert error.ranks == [0, 1]
    assert "ranks 0 and 1 came to no collective of its mesh and returned nothing for 1 s" in str(error)


def test_unchecked_ranks_are_not_said_to_have_come_to_no_collective(monkeypatch):
    monkeypatch.setenv("SHARDLAB_CHECK", "0")
    with ranks(2) as trusting:
        trusting.run(healthy)
        with pytest.raises(RankError, match=r"did not return within 0.3 s \(with SHARDLAB_CHECK=0 nobody knows"):
            trusting.run(lambda mesh: time.sleep(1000), limit=0.3)


def test_a_few_that_left_are_named_though_more_are_still_on_their_way(pool, record_property):
    def lesson(mesh):
        if mesh.ranks[0] >= 2:
            return None
        time.sleep(0.5 * mesh.ranks[0])
        return mesh.all_reduce(mesh.rank)

    error = fault_of(pool, lesson, record_property, limit=5)
    assert error.ranks == [2, 3] and "ranks 2 and 3 returned without coming to all_reduce sum" in str(error)


# one rank does something more, and those who rightly do not come are innocent


def one_more(mesh):
    mesh.all_reduce(mesh.rank)
    if mesh.ranks == [2]:
        mesh.all_reduce(mesh.rank)


def another_axis(mesh):
    mesh["tp" if mesh.ranks == [3] else "dp"].all_reduce(mesh.rank)


def the_whole_mesh(mesh):
    (mesh if mesh.ranks == [3] else mesh["dp"]).all_reduce(mesh.rank)


ODD = {one_more: ("4", 2), another_axis: ("2×2", 3), the_whole_mesh: ("2×2", 3)}


@pytest.mark.parametrize("lesson", ODD, ids=lambda lesson: lesson.__name__)
def test_the_odd_one_is_named(pools, lesson, record_property):
    axes, odd = ODD[lesson]
    error = fault_of(pools[axes], lesson, record_property)
    assert error.ranks == [odd], error
    assert re.match(rf"rank {odd} waits in all_reduce sum at {lesson.__name__}, .* did not come", str(error)), error


def test_a_mismatch_within_an_axis_names_its_ranks(pools, record_property):
    def lesson(mesh):
        mesh["tp"].all_reduce(Shards([torch.ones(2, 3 + (mesh.ranks == [3]))], mesh))

    error = fault_of(pools["2×2"], lesson, record_property)
    assert error.ranks == [2, 3] and "shard 2: [2, 3], shard 3: [2, 4]" in str(error)


def test_rank_0_may_be_the_odd_one(pool, record_property):
    def lesson(mesh):
        mesh.all_to_all(Shards([torch.ones(4, 4)], mesh), 0, 1 - (mesh.ranks == [0]))

    error = fault_of(pool, lesson, record_property)
    assert error.ranks == [0] and "shard 0: 0, 0, shard 1: 0, 1" in str(error)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("not a word")


class Claims(Exception):
    guilty = "me"


def speaks_of_gloo():
    raise AssertionError("nccl is wanted here, and this is gloo")


def finds_no_file():
    Path("/data/gloo/x.pt").read_bytes()


def cannot_speak():
    raise Mute


def blames_itself():
    raise Claims("whom?")


def dies_of_a_signal_without_a_name():
    os.kill(os.getpid(), 40)


STRANGE = {
    speaks_of_gloo: "rank 1 raised AssertionError: nccl",
    finds_no_file: "rank 1 raised FileNotFoundError: .*gloo",
    cannot_speak: "rank 1 raised Mute",
    blames_itself: "rank 1 raised Claims: whom",
    dies_of_a_signal_without_a_name: "rank 1 died of signal 40",
}


@pytest.mark.parametrize("fault", STRANGE, ids=lambda fault: fault.__name__)
def test_strange_ends_are_told_as_they_are(pools, fault, record_property):
    error = fault_of(pools["2"], on(1)(fault), record_property)
    assert error.ranks == [1] and re.match(STRANGE[fault], str(error), re.DOTALL), error


# torch's own collectives, of which the board knows nothing


def all_but_rank_2_call_torch(mesh):
    if mesh.ranks != [2]:
        torch.distributed.all_reduce(torch.ones(1))


def rank_2_alone_calls_torch(mesh):
    if mesh.ranks == [2]:
        torch.distributed.all_reduce(torch.ones(1))


def rank_2_sleeps_while_others_call_torch(mesh):
    time.sleep(1000) if mesh.ranks == [2] else torch.distributed.barrier()


TORCHS = {
    all_but_rank_2_call_torch: r"rank 2 returned without coming to torch's all_reduce, at .*, where rank 0 waits",
    rank_2_alone_calls_torch: r"rank 2 waits in torch's all_reduce, at .*, to which ranks 0, 1 and 3 did not come",
    rank_2_sleeps_while_others_call_torch: r"rank 2 did not come to torch's barrier, .* waited for 1 s: .*sleep",
}


@pytest.mark.parametrize("lesson", TORCHS, ids=lambda lesson: lesson.__name__)
def test_who_went_away_from_torchs_own_collectives_is_named(pool, lesson, record_property):
    error = fault_of(pool, lesson, record_property)
    assert error.ranks == [2] and re.match(TORCHS[lesson], str(error)), error


def test_ranks_that_all_wait_in_torchs_collectives_are_all_named(pools, record_property):
    def lesson(mesh):
        torch.distributed.recv(torch.ones(1), 1 - mesh.ranks[0])

    error = fault_of(pools["2"], lesson, record_property)
    assert error.ranks == [0, 1] and "waits in torch's recv, at lesson, line" in str(error), error


def test_of_two_ranks_one_of_which_calls_once_more_both_are_named(pools, record_property):
    def lesson(mesh, collective):
        mesh.all_reduce(mesh.replicate(torch.ones(1)))
        if mesh.ranks == [1]:
            collective(mesh)

    for collective, said in [
        (lambda mesh: mesh.all_reduce(mesh.rank), r"all_reduce sum at <lambda>, line \d+ of test_pool.py"),
        (lambda mesh: torch.distributed.barrier(), r"torch's barrier, at <lambda>, line \d+ of test_pool.py: .*"),
    ]:
        error = fault_of(pools["2"], lesson, record_property, collective)
        said = rf"ranks 0 and 1 did not make the same calls: rank 1 waits in {said}; rank 0 has returned, and "
        said += r"the last that it came to is all_reduce sum at lesson, line \d+ of test_pool.py\n"
        assert error.ranks == [0, 1] and re.match(said, str(error)), error
    error = fault_of(pools["2"], lambda mesh: mesh.ranks[0] or mesh.all_reduce(mesh.rank), record_property)
    assert error.ranks == [0, 1] and "rank 1 has returned, and it came to none" in str(error), error


# what is shown, and what is left, of a rank that ends badly


def test_what_ranks_printed_before_one_died_is_shown(pools, capsys, record_property):
    def lesson(mesh, end):
        print("step", 1 + mesh.ranks[0])
        print("no line", end="")
        end() if mesh.ranks == [1] else mesh.all_reduce(mesh.rank)

    for end in (lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: time.sleep(1000)):
        capsys.readouterr()
        fault_of(pools["2"], lesson, record_property, end, limit=0.5)
        assert capsys.readouterr().out == "rank 0: step 1\nrank 0: no line\nrank 1: step 2\nrank 1: no line\n"
    pools["2"].run(lambda mesh: None)
    assert not capsys.readouterr().out, "it is shown once"


def test_of_a_flood_of_prints_the_last_are_shown(pools, capsys):
    def lesson(mesh):
        if mesh.ranks == [1]:
            for number in range(30_000):
                print("line", number, "ü")
            print("x" * 200_000, end="the end")

    pools["2"].run(lesson)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "rank 1: … of 608,897 bytes the last 65,536:"
    assert "\n".join(lines).endswith("xthe end") and len("".join(lines)) < 66_000
    begin = time.perf_counter()

    def endless(mesh):
        while True:
            print("again and again")

    with pytest.raises(RankError, match="returned nothing for 0.5 s"):
        pools["2"].run(endless, limit=0.5)
    assert time.perf_counter() - begin < SOON
    assert len(capsys.readouterr().out) < 4 * 66_000
    assert pools["2"].run(healthy).shards == [1, 1]


def starts_others(mesh):
    """A process, one in a session of its own, a fork, and one whose parent has ended."""
    sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
    pids = [subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid]
    if not (pid := os.fork()):
        time.sleep(1000)
    orphan = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid)"
    orphan = subprocess.run([sys.executable, "-c", orphan, *sleep], stdout=subprocess.PIPE, text=True).stdout
    return [*pids, pid, int(orphan)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere orphans are nobody's")
def test_what_a_lesson_starts_ends_with_its_rank(pools):
    two = pools["2"]
    first = sum(two.run(starts_others), [])
    assert len(first) == 8 and all(map(runs, first)), "it stays for the next lesson"
    os.kill(two.pids[1], signal.SIGKILL)
    with pytest.raises(RankError):
        two.run(healthy)
    gone(first)
    with ranks(1) as other:
        second = other.run(starts_others)[0]
        assert two.run(healthy).shards == [1, 1] and all(map(runs, second)), "another pool's are left alone"
    gone(second)


def test_a_fork_that_comes_to_the_end_of_a_lesson_does_not_answer(pools, tmp_path):
    def forks(mesh, end):
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return end(mesh)

    def fails(mesh):
        sys.stderr = open(tmp_path / f"{mesh.ranks[0]}", "w", buffering=1)  # noqa: SIM115
        raise ValueError("in the fork")

    for end, status in ((lambda mesh: "the fork's", 0), (fails, 1), (lambda mesh: sys.exit(3), 1)):
        assert pools["2"].run(forks, end) == [status] * 2
        assert pools["2"].run(healthy).shards == [1, 1]
    for rank in range(2):
        assert (tmp_path / f"{rank}").read_text().endswith("ValueError: in the fork\n")


LAST = []


@pytest.mark.parametrize("piece", [100, 100_000])
def test_a_memory_that_fills_in_small_pieces(pools, record_property, piece):
    def lesson(mesh):
        if mesh.ranks == [1]:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
            while True:
                LAST.append(bytearray(piece))
        return mesh.all_reduce(mesh.rank)

    error = fault_of(pools["2"], lesson, record_property, limit=30)
    assert error.ranks == [1] and str(error).startswith("rank 1 ran out of memory"), error


def test_axes_that_wait_for_each_other(pools, record_property):
    def lesson(mesh):
        first, second = ("dp", "tp") if mesh.ranks[0] in (1, 2) else ("tp", "dp")
        mesh[second].all_reduce(mesh[first].all_reduce(mesh.rank))

    error = fault_of(pools["2×2"], lesson, record_property)
    assert error.ranks == [0, 1, 2, 3]
    for rank, other in enumerate((1, 3, 0, 2)):
        assert re.search(rf"^rank {rank} waits in all_reduce sum at lesson, .*, for rank {other}$", str(error), re.M), (
            error
        )


def test_every_rank_raises(pool, record_property):
    error = fault_of(pool, lambda mesh: mesh.no_such_thing, record_property)
    assert error.ranks == [0, 1, 2, 3]
    assert str(error).startswith("ranks 0, 1, 2 and 3 raised AttributeError: 'Mesh' object has no attribute")
    assert str(error).count("raised") == 1


def test_a_rank_killed_between_two_runs(pool):
    pool.run(healthy)
    os.kill(pool.pids[1], signal.SIGKILL)
    with pytest.raises(RankError, match="rank 1 died of SIGKILL") as told:
        pool.run(healthy)
    assert told.value.ranks == [1] and pool.run(healthy).shards == [6] * 4


# the ranks do not agree


def disagree(mesh, usual, other):
    """Rank 2 does something else."""
    return (other if mesh.ranks[0] == 2 else usual)(mesh, Shards([torch.ones(2, 3)], mesh))


def sums(mesh, x_):
    return mesh.all_reduce(x_)


def sums_a_matrix_turned_over(mesh, x_):
    return mesh.all_reduce(x_.T.contiguous())


def sums_doubles(mesh, x_):
    return mesh.all_reduce(x_.double())


def takes_the_maximum(mesh, x_):
    return mesh.all_reduce(x_, op="max")


def gathers(mesh, x_):
    return mesh.all_gather(x_, dim=0)


def gathers_along_1(mesh, x_):
    return mesh.all_gather(x_, dim=1)


def broadcasts(mesh, x_, src=0):
    return mesh.broadcast(x_, src=src)


def sums_and_perhaps_gathers(mesh, x_):
    y_ = mesh.all_reduce(x_)
    return y_ if mesh.ranks[0] == 2 else mesh.all_gather(y_, dim=0)


def sums_two(mesh, x_):
    a_ = mesh.all_reduce(x_)
    return a_ + mesh.all_reduce(x_ + 1)


def sums_two_the_other_way_round(mesh, x_):
    b_ = mesh.all_reduce(x_ + 1)
    return b_ + mesh.all_reduce(x_)


DISAGREE = {
    "shapes": (sums, sums_a_matrix_turned_over, r"all_reduce wants one shape .*shard 1: \[2, 3\], shard 2: \[3, 2\]"),
    "dtypes": (sums, sums_doubles, r"all_reduce wants one dtype .*shard 1: float32, shard 2: float64"),
    "reductions": (sums, takes_the_maximum, r"one call .*shard 1: all_reduce sum, shard 2: all_reduce max"),
    "collectives": (sums, gathers, r"one call .*shard 1: all_reduce sum, shard 2: all_gather"),
    "roots": (broadcasts, partial(broadcasts, src=1), r"broadcast wants one src .*shard 1: 0, shard 2: 1"),
    "dims": (gathers, gathers_along_1, r"all_gather wants one dim .*shard 1: 0, shard 2: 1"),
    "lengths": (*[sums_and_perhaps_gathers] * 2, r"rank 2 returned without coming to all_gather at sums_and_perhaps"),
    "order": (
        sums_two,
        sums_two_the_other_way_round,
        r"one line of the program .*shard 1: sums_two, line \d+ of test_pool.py, shard 2: sums_two_the_other_way",
    ),
}


@pytest.mark.parametrize("what", DISAGREE)
def test_ranks_that_do_not_agree(pool, what, record_property):
    usual, other, pattern = DISAGREE[what]
    error = fault_of(pool, disagree, record_property, usual, other)
    assert error.ranks == [2] and str(error).startswith("rank 2 "), error
    assert re.search(pattern, str(error)), error
    if what != "lengths":
        assert "Odd: shard 2" in str(error) and str(error).count("test_pool.py") >= 2


def test_the_order_of_two_backwards_is_compared(pool, record_property):
    def lesson(mesh):
        a_, b_ = mesh.replicate(torch.ones(2, requires_grad=True)), mesh.replicate(torch.ones(2, requires_grad=True))
        y_ = mesh.copy(a_)
        z_ = mesh.copy(b_)
        for loss_ in (z_, y_) if mesh.ranks[0] == 2 else (y_, z_):
            loss_.sum().backward()

    error = fault_of(pool, lesson, record_property)
    assert error.ranks == [2] and re.search(r"one line of the program .*shard 1: lesson, line \d+", str(error)), error


def test_two_ranks_that_disagree_are_both_named(pools, record_property):
    error = fault_of(
        pools["2"], lambda mesh: mesh.all_reduce(mesh.replicate(torch.ones(1 + mesh.ranks[0]))), record_property
    )
    assert error.ranks == [0, 1] and "shard 0: [1], shard 1: [2]" in str(error)


def test_the_comparison_can_be_left_out(monkeypatch):
    def lesson(mesh):
        x_ = Shards([torch.ones(2)], mesh)
        return sums_two_the_other_way_round(mesh, x_) if mesh.ranks[0] else sums_two(mesh, x_)

    monkeypatch.setenv("SHARDLAB_CHECK", "0")
    with ranks(2) as unchecked:
        y_ = unchecked.run(lesson)  # wrong, by luck equal in its sum, and nobody says so
        assert [y.tolist() for y in y_.shards] == [[6.0, 6.0]] * 2
        assert unchecked.run(gather_uneven).shards[1].tolist() == [0, 1, 1]  # sizes are still asked for
    monkeypatch.delenv("SHARDLAB_CHECK")
    with ranks(2) as checked, pytest.raises(RankError, match="one line of the program"):
        checked.run(lesson)


def gather_uneven(mesh):
    return mesh.all_gather(Shards([torch.full((1 + mesh.ranks[0],), mesh.ranks[0])], mesh), dim=0)


# numbers that get lost


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_maximum_keeps_a_nan(pool, dtype):
    def lesson(mesh, at):
        value = torch.tensor([float(mesh.ranks[0]), -torch.inf, 1.0], dtype=dtype)
        value[0] = torch.nan if mesh.ranks[0] == at else value[0]
        return mesh.all_reduce(Shards([value], mesh), op="max")

    for at in range(4):
        for value in pool.run(lesson, at).shards:
            assert value[0].isnan() and value[1:].tolist() == [-torch.inf, 1] and value.dtype is dtype
    assert pool.run(lesson, None).shards[0].tolist() == [3, -torch.inf, 1]


LIMITS = {torch.uint8: 255, torch.int8: 127, torch.int32: 2**31 - 1, torch.int64: 2**63 - 1}


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("collective", ["all_reduce", "reduce_scatter"])
def test_a_sum_of_whole_numbers_that_overflows(pool, dtype, collective, record_property):
    def lesson(mesh, most):
        values = torch.tensor([most if r == 1 else 0 for r in mesh.ranks], dtype=dtype).reshape(-1, 1)
        x_ = Shards(
            [value.repeat(4) + int(extra) for value, extra in zip(values, [r == 3 for r in mesh.ranks], strict=True)],
            mesh,
        )
        return mesh.all_reduce(x_) if collective == "all_reduce" else mesh.reduce_scatter(x_, dim=0)

    one = Mesh(4, devices=["cpu"])
    fits = {y.max().item() for y in pool.run(lesson, LIMITS[dtype] - 1).shards + lesson(one, LIMITS[dtype] - 1).shards}
    assert fits == {LIMITS[dtype]}
    with pytest.raises(OverflowError, match=f"{collective}: the sum reaches"):
        lesson(one, LIMITS[dtype])
    error = fault_of(pool, lesson, record_property, LIMITS[dtype])
    assert f"OverflowError: {collective}: the sum reaches" in str(error)


def test_an_empty_shard_has_no_maximum(pool, record_property):
    def lesson(mesh):
        z_ = mesh.shard(torch.ones(2, 3), dim=1)  # shard 3 has no column
        return mesh.all_reduce(z_.amax(1), op="max")

    error = fault_of(pool, lesson, record_property)
    assert error.ranks == [3] and "rank 3 raised IndexError: shard 3, amax([2, 0], 1)" in str(error)

    def whole(mesh):
        return mesh.all_reduce(mesh.shard(torch.ones(3), dim=0), op="max")

    error = fault_of(pool, whole, record_property)
    assert error.ranks == [3] and "shard 2: [1], shard 3: [0]" in str(error)


# lessons that cannot go


def test_a_lesson_that_cannot_be_sent(pool):
    lock, pids, mesh_here = threading.Lock(), pool.pids, Mesh(2, devices=["cpu"])

    def helper():
        return lock

    for lesson, args, said in [
        (lambda mesh: lock, (), r"`lock` \(lock\), which the lesson uses, cannot be sent to the ranks: .*pickle"),
        (lambda mesh: helper(), (), r"`lock` \(lock\), which `helper` uses, .*cannot be sent"),
        (lambda mesh, a, b: None, (1, lock), r"argument 2 \(lock\) cannot be sent"),
        (lambda mesh: pool.pids, (), r"`pool` \(Pool\), which the lesson uses, cannot be sent"),
        (lambda mesh: mesh_here, (), r"`mesh_here` \(Mesh\), .*a rank uses the one that it is given"),
    ]:
        with pytest.raises(TypeError, match=said):
            pool.run(lesson, *args)
    assert pool.pids == pids, "the ranks know of nothing"


def test_a_lesson_whose_module_the_ranks_do_not_find(pool, record_property):
    class Elsewhere:
        def __reduce__(self):
            return __import__, ("no_such_module",)

    error = fault_of(pool, lambda mesh, x: x, record_property, Elsewhere())
    assert "raised ModuleNotFoundError: No module named 'no_such_module'" in str(error)


# the kernel


def test_a_closed_pool_says_so(folder):
    pool = ranks(2)
    pids = pool.pids
    pool.close()
    pool.close()
    assert repr(pool) == "ranks(2), closed"
    assert not [pid for pid in pids if runs(pid)]
    with pytest.raises(RuntimeError, match=r"this pool is closed: ranks\(2\) makes another"):
        pool.run(healthy)


def test_two_threads_at_once(pools):
    two, results = pools["2"], []
    slow = threading.Thread(target=lambda: results.append(two.run(lambda mesh: time.sleep(1) or 7)))
    slow.start()
    time.sleep(0.3)
    for call in (lambda: two.run(healthy), two.close):
        with pytest.raises(RuntimeError, match="at work for another thread"):
            call()
    slow.join()
    assert results == [[7, 7]] and two.run(healthy).shards == [1, 1]


def test_a_pool_that_nobody_holds_ends():
    files = psutil.Process().num_fds()
    for _ in range(3):
        pool = ranks(2)
        pids, folder = pool.pids, pool.folder
        del pool
        gone(pids, folder)
    assert psutil.Process().num_fds() <= files


def gone(pids, folder=None):
    """These processes end soon, and their folder goes with them."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        if not any(map(runs, pids)) and not (folder and os.path.exists(folder)):
            return
        time.sleep(0.02)
    raise AssertionError(f"left: {[pid for pid in pids if runs(pid)]}, {folder}")


def test_a_killed_fork_server(pools, folder):
    for some in pools.values():
        some.run(healthy)
    pids = [pid for some in pools.values() for pid in some.pids]
    psutil.Process(pids[0]).parent().kill()
    gone(pids)
    for some in pools.values():
        with pytest.raises(RankError, match="vanished without a word, as when the fork server is killed"):
            some.run(healthy)
    assert not list(folder.iterdir())
    for some in pools.values():  # on a new one
        assert some.run(healthy).shards == [sum(range(some.size))] * some.size


KERNEL = """
import os, signal, sys, time
from shardlab.ranks import ranks
pool = ranks(2)
def stuck(mesh):
    if mesh.ranks[0] == 0:
        mesh.all_reduce(mesh.rank)
    sum(range(10**13))
def healthy(mesh):
    return mesh.all_reduce(mesh.rank)
print(*pool.pids, os.getpid(), pool.folder, flush=True)
try:
    pool.run(stuck, limit=1000)
except KeyboardInterrupt as error:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one may still come when all is over
    print("interrupted:", error, pool.pids, os.path.exists(sys.argv[1]), flush=True)
    print(pool.run(healthy).shards, flush=True)
"""


@pytest.fixture
def kernel(folder):
    """Another process, in the middle of a collective: how it was started, the pid of itself and of its session, those
    of its ranks, and their folder."""
    options = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"TMPDIR": str(folder)}}
    process = subprocess.Popen(forked.python("-c", KERNEL, ""), **options)
    *family, pid, left = process.stdout.readline().split()
    time.sleep(0.5)
    family = [int(pid) for pid in family]
    family.append(psutil.Process(family[0]).ppid())
    yield process, int(pid), family, left
    process.kill()
    process.wait()
    process.stdout.close()


def test_an_interrupt_in_the_middle_of_a_collective(kernel, record_property):
    process, pid, family, left = kernel
    begin = time.perf_counter()
    os.killpg(pid, signal.SIGINT)  # as Jupyter does: to all that the kernel started in its group
    assert process.stdout.readline() == "interrupted: all ranks were ended; the next run starts new ones [] False\n"
    record_property("interrupted after", f"{time.perf_counter() - begin:.2f} s")
    assert process.stdout.readline() == "[tensor(1), tensor(1)]\n"
    assert process.wait(SOON) == 0
    gone(family, left)


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03])
def test_an_interrupt_pressed_again_and_again(kernel, pause):
    process, pid, family, left = kernel
    for _ in range(4):
        os.killpg(pid, signal.SIGINT)
        time.sleep(pause)
    assert process.stdout.readline() == "interrupted: all ranks were ended; the next run starts new ones [] False\n"
    assert process.stdout.readline() == "[tensor(1), tensor(1)]\n"
    assert process.wait(SOON) == 0
    gone(family, left)


def test_an_interrupt_counts_once_and_where_it_can(monkeypatch):
    heard = []
    monkeypatch.setattr(signal, "default_int_handler", None)  # ours is called, whatever it is
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with room.interrupts_held() as check:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert not heard
            check()
            check()
            assert heard == [1]
            os.kill(os.getpid(), signal.SIGINT)
        assert heard == [1, 1], "at the latest when it is over"
        os.kill(os.getpid(), signal.SIGINT)
        assert heard == [1, 1, 1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_kernel_leaves_nothing(kernel, record_property):
    process, pid, family, left = kernel
    assert all(map(runs, family)) and os.path.exists(left)
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    gone(family, left)
    record_property("all gone after", f"{time.perf_counter() - begin:.2f} s")


FORKED = """
import os, sys, time
from shardlab.ranks import ranks
pool = ranks(2)
if os.fork() == 0:  # as a worker of a DataLoader, which outlives its parent
    pool.close()
    time.sleep(60)
print(*pool.pids, os.getpid(), pool.folder, flush=True)
print(pool.run(lambda mesh: mesh.all_reduce(mesh.rank)).shards, flush=True)
time.sleep(1000)
"""


def test_a_fork_of_the_kernel_neither_ends_its_ranks_nor_keeps_them(folder):
    options = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"TMPDIR": str(folder)}}
    process = subprocess.Popen(forked.python("-c", FORKED), **options)
    *ranks, pid, left = process.stdout.readline().split()
    try:
        assert process.stdout.readline() == "[tensor(1), tensor(1)]\n"
        children = psutil.Process(int(pid)).children()
        os.kill(int(pid), signal.SIGKILL)
        gone([int(rank) for rank in ranks], left)
        assert len(children) == 2 and any(child.is_running() for child in children), "the fork is still there"
    finally:
        os.killpg(int(pid), signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("pause", [0.0, 0.3, 0.6])
def test_a_kernel_killed_while_its_fork_server_starts_leaves_nothing(folder, pause):
    program = "import shardlab.ranks as room; print(flush=True); room.ranks(2)"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = forked.python("-c", program)
    process = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(folder)}, **options)
    before = {*folder.iterdir()}
    process.stdout.readline()
    time.sleep(pause)
    process.kill()
    _, err = process.communicate(timeout=60)  # the fork server has its stderr, too
    assert err == "" and {*folder.iterdir()} == before


def test_a_notebook_is_interrupted_and_restarted():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(env=os.environ | {"TMPDIR": tempfile.tempdir})
    try:

        def cell(code):
            heard = []
            listen = {"timeout": 60, "output_hook": lambda message: heard.append(message["content"])}
            while client.execute_interactive(code, **listen)["content"]["status"] == "aborted":
                heard.clear()  # an interrupt ends for a moment what comes after it, too
            return "".join(c.get("text", "") or c.get("evalue", "") or str(c.get("data", "")) for c in heard)

        sleep = "pool.run(lambda mesh: time.sleep(1000), limit=1000)"
        cell("import time, torch\nfrom shardlab.ranks import ranks\npool = ranks(2)")
        cell("def lesson(mesh, X):\n    if (X < 0).any(): oops\n    return mesh.all_reduce(mesh.replicate(X))")
        assert "from 2 real ranks" in cell("pool.run(lesson, torch.ones(2))")
        said = cell("pool.run(lesson, -torch.ones(2))")
        assert "at lesson, line 2 of its cell: if (X < 0).any(): oops" in said, said
        request = client.execute(sleep)
        time.sleep(1)
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=SOON))["parent_header"]["msg_id"] != request:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert "all ranks were ended" in reply["content"]["evalue"]
        assert "[tensor([2.]), tensor([2.])]" in cell("pool.run(lesson, torch.ones(1)).shards")
        *family, left = eval(cell("import os\nprint([*pool.pids, os.getpid(), pool.folder])"))
        client.execute(sleep)
        manager.restart_kernel(now=True)
        gone(family, left)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# what can be seen from outside


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no such policy")
def test_the_threads_of_gloo_take_turns(pool):
    """They would else keep the cores busy that the ranks need: three times as long for an all-reduce on 4 ranks."""

    answers = pool.run(lambda mesh: ranks_program.gloo_policy())
    assert len(answers) == 4
    for found in answers:
        assert found and set(found) == {os.SCHED_BATCH}


def test_the_interface_for_several_hosts_is_not_that_of_a_pool(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no_such_interface")
    with ranks(2) as own:
        assert {*own.run(lambda mesh: os.environ["GLOO_SOCKET_IFNAME"])} <= {"lo", "lo0"}


def test_process_groups_are_made_once_in_a_world(pool):
    def lesson(mesh):
        for _ in range(3):
            own = Mesh(dp=2, tp=2)
            y_ = own["tp"].all_reduce(own.rank)
        return y_, len(torch.distributed.distributed_c10d._world.pg_map)

    first = pool.run(lesson)
    assert [shard.item() for shard in first[0].shards] == [1, 1, 5, 5]
    assert pool.run(lesson)[1] == first[1]


def test_a_path_may_be_a_path():
    program = "import sys; from pathlib import Path; sys.path.append(Path('/nowhere'))\n"
    program += "from shardlab.ranks import ranks\nwith ranks(1) as pool:\n    print(pool.run(lambda mesh: mesh.size))"
    assert subprocess.run(forked.python("-c", program), capture_output=True, text=True).stdout == "[1]\n"


def test_ranks_listen_on_loopback_alone_and_the_fork_server_nowhere(pool):
    pool.run(healthy)
    assert {*pool.run(lambda mesh: os.environ["GLOO_SOCKET_IFNAME"])} <= {"lo", "lo0"}  # wherever the host's name leads
    server = psutil.Process(pool.pids[0]).parent()
    assert server.ppid() == os.getpid()
    assert [c for c in server.net_connections("all") if c.status == psutil.CONN_LISTEN or c.laddr] == []
    for pid in pool.pids:
        found = [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert found and {c.laddr.ip for c in found} <= {"127.0.0.1", "::1"}
        assert not [c for c in psutil.Process(pid).net_connections("unix") if c.laddr]  # none that has a name


def test_the_fork_server_has_run_no_thread(pool):
    assert psutil.Process(pool.pids[0]).parent().num_threads() == 1


def test_nothing_is_left(pool, pools, folder):
    """The last of this file."""
    for some in pools.values():
        some.close()
    server = [child.pid for child in psutil.Process().children() if "forks.serve" in " ".join(child.cmdline())]
    assert len(server) == 1 and not psutil.Process(server[0]).children(recursive=True)
    forks.stop()
    gone(server)
    assert not [c for c in psutil.Process().children() if "from shardlab" in " ".join(c.cmdline())]
    assert not [c for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert not [left for left in folder.iterdir() if left.name.startswith("shardlab-")]
