"""Who waited for whom: the timeline of a run is what its ranks noted, also of one that failed."""

import os
import re
import time

import pytest
import torch

pytest.importorskip("cloudpickle")  # where torch is the system's
from notebook_tools import opened
from shardlab.ranks import RankError, ranks, timeline, visits
from shardlab.ranks.prints import shared_file

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]
X = torch.ones(2, 4)
SOON = 0.5  # seconds that a rank with nothing to do has to come to a collective, however busy the machine


@pytest.fixture(scope="module")
def pool():
    os.environ["SHARDLAB_DEVICES"] = "cpu"
    with ranks(3) as pool:
        yield pool
    del os.environ["SHARDLAB_DEVICES"]


def told(pool, lesson, **options):
    """What the timeline says of a lesson that fails."""
    with pytest.raises(RankError):
        pool.run(lesson, **options)
    return repr(pool.timeline).split("\n")


def both(mesh):
    return mesh.all_gather(mesh.all_reduce(mesh.replicate(X)), dim=1)


def one_is_late(mesh):
    time.sleep(0.2 if mesh.ranks == [1] else 0)
    return both(mesh)


def test_each_rank_comes_and_a_gate_opens_with_the_last(pool):
    pool.run(one_is_late)
    found = pool.timeline
    assert [[timeline.name(v) for v in lane.visits] for lane in found.lanes] == [["all_reduce", "all_gather"]] * 3
    assert [lane.end for lane in found.lanes] == ["returned"] * 3
    first, second = found.gates.values()
    assert first[1].came - found.lanes[1].began >= 0.2
    last = max(visit.came for visit in first.values())
    assert all(visit.opened >= last for visit in first.values()), "it opened before the last came"
    for lane in found.lanes:
        times = [0, lane.began, *(t for visit in lane.visits for t in (visit.came, visit.opened)), lane.ended]
        assert times == sorted(times) and lane.ended < 60
    assert "of its cell" not in first[0].what and re.fullmatch(r"all_reduce sum at both, line \d+ of .*", first[0].what)


def test_the_picture_is_the_same_however_long_it_takes(pool):
    pool.run(both)
    quick = pool.timeline
    pool.run(one_is_late)
    assert pool.timeline._repr_html_() == quick._repr_html_() and repr(pool.timeline) == repr(quick)
    assert pool.timeline.to_scale() != quick.to_scale()
    assert "waits" not in opened(quick._repr_html_())
    assert "waits" in pool.timeline.to_scale() and "time in ms" in pool.timeline.to_scale(until=1000)


def test_one_that_raises(pool):
    def lesson(mesh):
        y_ = both(mesh)
        if mesh.ranks == [1]:
            time.sleep(SOON)
            raise ValueError("out of milk")
        return mesh.all_reduce(y_)

    waits = "all_reduce, all_gather, comes to all_reduce, waits there for rank 1"
    rank_1 = "rank 1: all_reduce, all_gather, ValueError: out of milk"
    assert told(pool, lesson) == [f"rank 0: {waits}", rank_1, f"rank 2: {waits}"]
    html = opened(pool.timeline._repr_html_())
    assert "all_reduce stays shut" in html and html.count("waits<") == 2 and "out of" in html
    both_again = pool.run(both)
    assert len(both_again.shards) == 3 and pool.timeline.lanes[1].end == "returned", "the next run has its own"


def test_one_that_sleeps(pool):
    def lesson(mesh):
        if mesh.ranks == [1]:
            time.sleep(100)
        return both(mesh)

    waits = "comes to all_reduce, waits there for rank 1"
    rank_1 = "rank 1: comes no further: time.sleep(100)"
    assert told(pool, lesson, limit=1) == [f"rank 0: {waits}", rank_1, f"rank 2: {waits}"]
    assert "time.sleep(100)" in opened(pool.timeline._repr_html_())
    assert pool.timeline.lanes[0].ended - pool.timeline.lanes[0].visits[0].came >= 1


def test_one_that_dies(pool):
    def lesson(mesh):
        if mesh.ranks == [2]:
            time.sleep(SOON)
            os.kill(os.getpid(), 9)
        return both(mesh)

    waits = "comes to all_reduce, waits there for rank 2"
    assert told(pool, lesson) == [f"rank 0: {waits}", f"rank 1: {waits}", "rank 2: died of SIGKILL"]


def test_one_that_returns(pool):
    def lesson(mesh):
        if mesh.ranks == [0]:
            time.sleep(SOON)
            return
        both(mesh)

    waits = "comes to all_reduce, waits there for rank 0"
    assert told(pool, lesson) == ["rank 0: returns", f"rank 1: {waits}", f"rank 2: {waits}"]


def test_two_that_do_not_agree(pool):
    def lesson(mesh):
        return mesh.all_reduce(mesh.replicate(torch.ones(2, 3) if mesh.ranks == [0] else torch.ones(3, 2)))

    shut = "comes to all_reduce, which stays shut, brought"
    assert told(pool, lesson) == [f"rank 0: {shut} [2, 3]", f"rank 1: {shut} [3, 2]", f"rank 2: {shut} [3, 2]"]
    assert "waits<" not in opened(pool.timeline._repr_html_()), "nobody waits: all have come"


def test_two_that_come_to_different_collectives(pool):
    def lesson(mesh):
        x_ = mesh.replicate(X)
        return mesh.all_reduce(x_) if mesh.ranks == [0] else mesh.all_gather(x_, dim=0)

    assert told(pool, lesson)[1] == "rank 1: comes to all_gather, which stays shut, brought all_gather"
    assert "all_reduce ≠ all_gather" in opened(pool.timeline._repr_html_())


def test_a_run_that_is_interrupted_and_none_at_all(pool, monkeypatch):
    with ranks(2) as fresh:
        assert repr(fresh.timeline) == "no run yet" and "no run yet" in fresh.timeline._repr_html_()
        ask, asked = fresh.board.read, []

        def press(rank):
            asked.append(rank)
            if len(asked) > 20:
                raise KeyboardInterrupt
            return ask(rank)

        monkeypatch.setattr(fresh.board, "read", press)
        with pytest.raises(KeyboardInterrupt):
            fresh.run(lambda mesh: time.sleep(100) if mesh.ranks == [1] else mesh.all_reduce(mesh.replicate(X)))
        assert repr(fresh.timeline) == "rank 0: comes to all_reduce, waits there for rank 1\nrank 1: comes no further"


def test_of_many_the_last(pool):
    count = visits.KEPT + 30

    def lesson(mesh):
        x_ = mesh.replicate(X)
        for _ in range(count):
            x_ = mesh.all_reduce(x_) / 3
        return mesh.all_gather(x_, dim=0)

    pool.run(lesson)
    left = timeline.MOST
    line = ", ".join(["all_reduce"] * (left - 1) + ["all_gather", "returns"])
    assert repr(pool.timeline).split("\n") == [f"… after {count + 1 - left} collectives"] + [
        f"rank {rank}: {line}" for rank in range(3)
    ]
    assert f"… {count + 1 - left} before" in opened(pool.timeline._repr_html_())
    shown = pool.timeline.last()
    assert len(shown.gates) == left and min(lane.began for lane in shown.lanes) == 0


def test_backward_is_said(pool):
    def lesson(mesh):
        x_ = mesh.copy(mesh.replicate(X.requires_grad_()))
        mesh.all_reduce(x_ * x_).sum().backward()

    pool.run(lesson)
    assert repr(pool.timeline).split("\n")[2] == "rank 2: all_reduce, all_reduce, backward, returns"
    assert "all_reduce, backward<" in opened(pool.timeline._repr_html_())


def test_groups_have_gates_of_their_own():
    def lesson(mesh):
        x_ = mesh["tp"].all_reduce(mesh["dp"].all_reduce(mesh.replicate(X)))
        if mesh.ranks == [3]:
            time.sleep(100)
        return mesh["dp"].all_reduce(x_)

    with ranks(dp=2, tp=2) as pool:
        assert told(pool, lesson, limit=SOON)[0] == "… after 2 collectives"
        lines = timeline.says(pool.timeline).split("\n")
        assert lines[0] == "rank 0: all_reduce, all_reduce, all_reduce, returns"
        assert lines[1] == "rank 1: all_reduce, all_reduce, comes to all_reduce, waits there for rank 3"
        assert lines[3] == "rank 3: all_reduce, all_reduce, comes no further: time.sleep(100)"
        assert {group for group, _ in pool.timeline.gates} == {(0, 1), (2, 3), (0, 2), (1, 3)}
        came = [{rank: v.came for rank, v in gate.items()} for gate in pool.timeline.steps().gates.values()]
        assert came == [{0: 1, 2: 1}, {1: 1, 3: 1}, {0: 2, 1: 2}, {2: 2, 3: 2}, {0: 3, 2: 3}, {1: 3}]


def test_nothing_is_noted_where_nothing_is_checked(monkeypatch):
    monkeypatch.setenv("SHARDLAB_CHECK", "0")
    with ranks(2) as pool:
        pool.run(lambda mesh: mesh.all_reduce(mesh.replicate(X)))
        assert repr(pool.timeline) == "rank 0: returns\nrank 1: returns"


def test_a_long_name_is_cut_and_a_page_is_read_back():
    with shared_file(2 * visits.SLOT) as file:
        own = visits.Visits(file.fileno(), 2, rank=1)
        own.came("all_reduce sum at " + "x" * 500, [0, 1])
        began, ended, (visit,), lost = visits.unpack(own.snapshot()[1])
        assert began == own.began and ended is None and lost == 0
        assert visit.what.startswith("all_reduce sum at xxx") and visit.gate == ((0, 1), 1) and visit.opened is None
        own.opened()
        own.end()
        _, ended, (visit,), _ = visits.unpack(own.snapshot()[1])
        assert began <= visit.came <= visit.opened <= ended
        own.clear()
        assert visits.unpack(own.snapshot()[1]) == (None, None, [], 0)
