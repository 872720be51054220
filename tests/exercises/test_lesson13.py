"""The checks of lesson 13, on real ranks: right answers in several wordings, and each wrong one by its name."""

import os
import re
import subprocess
import sys
import time

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn.functional as differentiable
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, SequenceParallel

from shardlab import Mesh, exercises
from shardlab.exercises import plan as plan_room
from shardlab.exercises import real_ranks
from shardlab.exercises.real_ranks import Collectives, told
from shardlab.exercises.verdict import UNSOLVED, Verdict
from shardlab.ranks import ranks

pytestmark = pytest.mark.ranks
plan, region = exercises.dtensor_plan, exercises.reduce_from_region


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    yield
    pids = [pid for pool in real_ranks.pools.pools.values() for pid in pool.pids]
    real_ranks.pools.close()
    assert not any(map(psutil.pid_exists, pids))


def told_and_said(verdict, mistake, *words):
    assert isinstance(verdict, Verdict) and not verdict.passed
    assert verdict.mistake == mistake, verdict
    assert len(verdict.message) > 20 and verdict._repr_html_()
    assert all(word in verdict.message for word in words), verdict


# ---------------------------------------------------------------- the plan


def col(**options):
    return ColwiseParallel(**options)


def row(**options):
    return RowwiseParallel(**options)


RIGHT_PLANS = [
    {"up": col(), "down": row()},
    {"down": RowwiseParallel(), "up": ColwiseParallel()},
    {"u*": col(), "d*": row()},
    {"up": col(input_layouts=Replicate(), output_layouts=Shard(-1)), "down": row(output_layouts=Replicate())},
    {"up": col(use_local_output=False), "down": row(use_local_output=False)},
    {"up": col(output_layouts=Shard(1)), "down": row(input_layouts=Shard(1))},
]


@pytest.mark.parametrize("answer", RIGHT_PLANS, ids=range(len(RIGHT_PLANS)))
def test_a_right_plan_passes(answer):
    for _ in range(2):
        verdict = plan.check(answer)
        assert verdict.passed, verdict
        assert verdict.mistake is None
    assert "forward 1 all_reduce, backward 1 all_reduce" in verdict.message


class Spy(ParallelStyle):
    """A style that leaves the layer as it is."""

    def _apply(self, module, device_mesh):
        return module


class Ends(ParallelStyle):
    def _apply(self, module, device_mesh):
        sys.exit(3)


class Waits(ParallelStyle):
    """One rank waits for the other, which does not come."""

    def _apply(self, module, device_mesh):
        if dist.get_rank() == 0:
            dist.all_reduce(torch.ones(1))
        return module


WRONG_PLANS = {
    "layers exchanged": [
        {"up": row(), "down": col()},
        {"up": row(input_layouts=Replicate()), "down": col(output_layouts=Replicate())},  # right values
    ],
    "both column-wise": [
        {"up": col(), "down": col()},
        {"*": col()},
        {"up": col(output_layouts=Replicate()), "down": col(output_layouts=Replicate())},
        {"up": col(), "down": col(input_layouts=Shard(-1), output_layouts=Replicate())},
    ],
    "both row-wise": [
        {"up": row(), "down": row()},
        {"up": row(input_layouts=Replicate()), "down": row(input_layouts=Replicate())},
    ],
    "an extra gather": [
        {"up": col(output_layouts=Replicate()), "down": row()},
        {"up": col(output_layouts=Replicate()), "down": row(input_layouts=Replicate())},
        {"up": col(use_local_output=False, output_layouts=Replicate()), "down": row()},
    ],
    "a layer left out": [
        {"up": col()},
        {"down": row()},
        {"up": col(output_layouts=Replicate())},
        {"down": row(input_layouts=Replicate())},
    ],
    "no reduction": [{"up": col(), "down": row(output_layouts=Partial())}],
    "only a slice of the output": [
        {"up": col(), "down": row(output_layouts=Shard(-1))},
        {"up": col(), "down": row(output_layouts=Shard(0), use_local_output=False)},
    ],
    "input taken for a shard": [
        {"up": col(input_layouts=Shard(-1)), "down": row()},
        {"up": col(input_layouts=Shard(0)), "down": row()},
    ],
    "no such layer": [
        {"UP": col(), "down": row()},
        {"up": col(), "down": row(), "out": row()},
        {"0": col(), "2": row()},
        {"up.weight": col(), "down": row()},
    ],
    "a class for a style": [{"up": ColwiseParallel, "down": RowwiseParallel}],
    "not a style": [{"up": "column", "down": "row"}, {"up": Shard(0), "down": Shard(1)}],
    "not a plan": [[col(), row()], col(), "up", 3, lambda: None, {1: col()}],
    UNSOLVED: [None, ..., {}, {"up": ..., "down": ...}, {"up": col(), "down": None}],
    "not sharded": [{"up": Spy(), "down": Spy()}],
    "sequence parallel": [{"up": SequenceParallel(), "down": row()}],
}


@pytest.mark.parametrize("mistake", WRONG_PLANS)
def test_a_wrong_plan_is_told_its_own_mistake(mistake):
    for answer in WRONG_PLANS[mistake]:
        told_and_said(plan.check(answer), mistake)


def test_a_wrong_plan_is_told_what_was_recorded_and_what_is_wanted():
    for mistake in ("an extra gather", "both row-wise", "layers exchanged"):
        message = plan.check(WRONG_PLANS[mistake][1]).message
        assert re.search(r"Recorded: forward \d.*backward \d.*, \d+ numbers held by a rank", message)
        assert "our layers: forward 1 all_reduce, backward 1 all_reduce, 126 numbers held by a rank." in message
    gathered = "forward 1 all_gather and 1 all_reduce, backward 1 all_gather and 1 all_reduce"
    assert gathered in plan.check(WRONG_PLANS["an extra gather"][1]).message


def test_gradients_are_looked_at(monkeypatch):
    """Break the oracle's gradient of one parameter after the other: none may be left out of the comparison."""
    whole = plan_room.dense
    for name in ("up.weight", "up.bias", "down.weight", "down.bias", "x"):

        def off(*args, name=name):
            y, grads = whole(*args)
            return y, grads | {name: grads[name] + 0.5}

        monkeypatch.setattr(plan_room, "dense", off)
        verdict = plan.check(RIGHT_PLANS[0])
        assert not verdict.passed and f"the gradient of {name}" in verdict.message


def test_every_known_mistake_is_made_here():
    for exercise, table in ((plan, WRONG_PLANS), (region, WRONG_SUMS)):
        names = [mistake.name for mistake in exercise.mistakes]
        assert len(names) == len(set(names)) and set(names) <= set(table)


# ---------------------------------------------------------------- the sum over ranks


class Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, partial):
        total = partial.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        return grad


class Written(torch.autograd.Function):
    """As Reduce, with a setup_context, a group, and the functional collective."""

    @staticmethod
    def forward(partial):
        return functional.all_reduce(partial.detach(), "sum", dist.group.WORLD).wait()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad.clone()


def by_a_function(partial):
    return Reduce.apply(partial)


def without_a_function(partial):
    total = partial.detach().clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return partial + (total - partial).detach()


RIGHT_SUMS = [by_a_function, Reduce.apply, lambda partial: Written.apply(partial), without_a_function]


@pytest.mark.parametrize("answer", RIGHT_SUMS, ids=range(len(RIGHT_SUMS)))
def test_a_right_sum_passes(answer):
    for _ in range(3):
        verdict = region.check(answer)
        assert verdict.passed, verdict


def test_what_an_answer_leaves_behind_does_not_reach_the_next(monkeypatch):
    def rude(partial):
        torch.set_default_dtype(torch.float16)
        torch.set_grad_enabled(False)
        return partial

    assert not region.check(rude)
    assert region.check(by_a_function).passed and plan.check(RIGHT_PLANS[0]).passed


@pytest.mark.parametrize("exercise", [plan, region], ids=["plan", "region"])
def test_how_a_check_behaves(exercise, record_property):
    answer = {plan: RIGHT_PLANS[0], region: by_a_function}[exercise]
    assert exercise.check().mistake == UNSOLVED and exercise.check() == exercise.check()
    state = torch.get_rng_state()
    assert repr(exercise.check(answer)) == repr(exercise.check(answer))
    assert torch.equal(torch.get_rng_state(), state) and not dist.is_initialized()
    with torch.inference_mode():
        assert exercise.check(answer).passed
    times = []
    for _ in range(5):
        start = time.perf_counter()
        exercise.check(answer)
        times.append(time.perf_counter() - start)
    record_property(f"{exercise.name}.check, best of 5", f"{min(times) * 1e3:.0f} ms")
    assert min(times) < 2


def reduced(partial, **options):
    """all_reduce of a copy, cut off."""
    total = partial.detach().clone()
    dist.all_reduce(total, **options)
    return total


class With(torch.autograd.Function):
    """Any forward and backward, as two functions."""

    @staticmethod
    def forward(ctx, partial, forward, backward):
        ctx.back = backward
        return forward(partial)

    @staticmethod
    def backward(ctx, grad):
        return ctx.back(grad), None, None


def with_(forward, backward=lambda grad: grad):
    return lambda partial: With.apply(partial, forward, backward)


def gathered(partial):
    parts = [torch.empty_like(partial) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, partial.detach())
    return parts


def to_the_first(partial):
    total = partial.detach().clone()
    dist.reduce(total, dst=0)
    return total if dist.get_rank() == 0 else partial.detach()


def in_place(partial):
    dist.all_reduce(partial)
    return partial


def in_place_unseen(partial):
    dist.all_reduce(partial.data)
    return partial


def accident(partial):
    total = partial.clone()
    dist.all_reduce(total)
    return total


def forgotten(partial):
    dist.all_reduce(partial.detach().clone())


def halved_again(partial):
    return differentiable.all_reduce(partial) / 1 + 0 * partial


def one_rank_raises(partial):
    if dist.get_rank() == 1:
        raise ValueError("only me")
    return by_a_function(partial)


def one_rank_waits(partial):
    return by_a_function(partial) if dist.get_rank() == 0 else partial


def mismatch(partial):
    return by_a_function(partial[: 1 + dist.get_rank()])


def raises(error):
    def answer(partial):
        raise error

    return answer


WRONG_SUMS = {
    "gradient n times too large": [
        lambda partial: differentiable.all_reduce(partial),
        lambda partial: functional.all_reduce(partial, "sum", dist.group.WORLD),
        with_(reduced, reduced),
        with_(reduced, lambda grad: 2 * grad),
        halved_again,
    ],
    "gradient n times too small": [with_(reduced, lambda grad: grad / 2)],
    "communication in backward": [with_(reduced, lambda grad: reduced(grad) / 2)],
    "no gradient": [reduced],
    "backward returns nothing": [with_(reduced, lambda grad: None), with_(reduced, torch.zeros_like)],
    "backward by accident": [accident],
    "no reduction": [lambda partial: partial, lambda partial: partial.clone(), lambda partial: 1 * partial],
    "input overwritten": [in_place, in_place_unseen],
    "mean for sum": [with_(lambda partial: reduced(partial) / 2), lambda partial: by_a_function(partial) / 2],
    "max for sum": [with_(lambda partial: reduced(partial, op=dist.ReduceOp.MAX))],
    "reducing twice": [lambda partial: by_a_function(by_a_function(partial)), with_(lambda p: reduced(reduced(p)))],
    "a gather where a reduce belongs": [
        with_(lambda partial: torch.cat(gathered(partial))),
        with_(lambda partial: torch.stack(gathered(partial))),
    ],
    "parts not counted once": [lambda partial: by_a_function(partial) + partial],
    "a part left out": [with_(lambda partial: reduced(partial * dist.get_rank()))],
    "rounded on the way": [with_(lambda partial: reduced(partial.float()).double())],
    "one rank alone has the sum": [with_(to_the_first)],
    "other collectives": [with_(lambda partial: sum(gathered(partial))), lambda p: sum(differentiable.all_gather(p))],
    "no return": [forgotten],
    "not a tensor": [lambda partial: 3, lambda partial: [partial], lambda partial: "sum"],
    "wrong shape": [lambda partial: by_a_function(partial).sum()],
    "wrong dtype": [lambda partial: by_a_function(partial).float()],
    "an error": [lambda partial: partial @ partial.wrong, raises(AssertionError()), mismatch],
    "wrong signature": [lambda: None, lambda mesh, partial: None],
    "not a function": [3, "g"],
    UNSOLVED: [None, ..., lambda partial: None, lambda partial: ..., raises(NotImplementedError("later"))],
    "product for sum": [with_(lambda partial: reduced(partial, op=dist.ReduceOp.PRODUCT))],
    "backward is not the identity": [with_(reduced, lambda grad: -grad)],
    None: [lambda partial: by_a_function(partial) + 1],
}


@pytest.mark.parametrize("mistake", WRONG_SUMS)
def test_a_wrong_sum_is_told_its_own_mistake(mistake):
    for answer in WRONG_SUMS[mistake]:
        told_and_said(region.check(answer), mistake)


def test_the_factor_of_a_second_all_reduce_is_in_the_message():
    message = region.check(WRONG_SUMS["gradient n times too large"][0]).message
    here, there = map(float, re.search(r"gradient of X has (\S+) at \S+ \S+ where (\S+) is wanted", message).groups())
    assert here == pytest.approx(2 * there, rel=1e-3)
    assert "The record of backward shows 1 all_reduce, and none is wanted." in message


def test_an_autograd_function_that_is_not_applied_is_told_how():
    for answer in (Reduce, lambda partial: Reduce(partial)):
        told_and_said(region.check(answer), "not a tensor", "Reduce.apply(partial)")


def test_a_mesh_of_the_notebook_stays_there():
    mesh = Mesh(2)
    told_and_said(region.check(lambda partial: mesh.all_reduce(partial)), "stays here", "`mesh` (Mesh)")


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("exercise", [plan, region], ids=["plan", "region"])
def test_an_exercise_shows_its_task(exercise):
    for text in (exercise.task, exercise.wanted, *exercise.given):
        assert text in repr(exercise)
    assert f"exercises.{exercise.name}.check" in exercise._repr_html_()
    assert getattr(exercises, exercise.name) is exercise and exercise.name in exercises.__all__


def test_an_interrupt_is_not_an_answer(monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(real_ranks, "packed_by", interrupted)
    for exercise, answer in ((plan, RIGHT_PLANS[0]), (region, by_a_function)):
        with pytest.raises(KeyboardInterrupt):
            exercise.check(answer)


def test_collectives_are_counted_by_whichever_interface_they_are_called():
    def lesson(mesh):
        x, counted = torch.ones(4), Collectives()
        with counted:
            dist.all_reduce(x)
            functional.all_reduce(x, "sum", dist.group.WORLD).wait()
            dist.all_gather([torch.empty(4) for _ in range(2)], x)
            dist.broadcast(x, 0)
            dist.barrier()
            mesh.all_gather(mesh.replicate(x), dim=0)  # one: in a pool, shapes are compared without a collective
        return told(counted.names)

    with ranks(2) as pool:
        assert pool.run(lesson, limit=60) == ["2 all_reduce and 2 all_gather and 1 broadcast"] * 2


# ---------------------------------------------------------------- what ends its ranks, and needs new ones


def test_a_plan_that_ends_its_ranks_or_waits_for_ever_is_told(monkeypatch):
    told_and_said(plan.check({"up": Ends(), "down": row()}), "an error")
    monkeypatch.setattr(real_ranks, "LIMIT", 2.0)
    told_and_said(plan.check({"up": Waits(), "down": row()}), "waits for ever")
    monkeypatch.undo()
    assert region.check(by_a_function).passed, "the next check has new ranks"


def test_a_sum_that_ends_its_ranks_is_told():
    for answer in (
        lambda partial: sys.exit(3),
        lambda partial: os._exit(3),
        lambda partial: os.kill(os.getpid(), 6),
    ):
        told_and_said(region.check(answer), "an error")


def test_a_rank_that_fails_alone_is_named_and_one_that_waits_is_ended(monkeypatch):
    verdict = region.check(one_rank_raises)
    told_and_said(verdict, "an error")
    assert "rank 1 raised ValueError: only me" in verdict.message
    monkeypatch.setattr(real_ranks, "LIMIT", 1.0)
    told_and_said(region.check(one_rank_waits), "waits for ever")
    monkeypatch.undo()
    assert region.check(by_a_function).passed


@pytest.mark.parametrize("n", [2, 4])
def test_where_ranks_run_already_as_under_torchrun_they_check_by_themselves(n):
    def lesson(mesh, exercise, answers):
        return [(verdict.passed, verdict.mistake) for verdict in map(exercise.check, answers)]

    sums = [by_a_function, reduced, lambda partial: partial, None]
    plans = [RIGHT_PLANS[0], WRONG_PLANS["both row-wise"][0], {}]
    with ranks(n) as pool:
        assert (
            pool.run(lesson, region, sums, limit=60)
            == [[(True, None), (False, "no gradient"), (False, "no reduction"), (False, UNSOLVED)]] * n
        )
        if n == 2:  # each rank has to import DTensor first, which takes it two seconds
            said = [(True, None), (False, "both row-wise"), (False, UNSOLVED)]
            assert pool.run(lesson, plan, plans, limit=60) == [said] * n


PROGRAM = """
import os, torch, torch.distributed as dist
from torch.distributed.tensor.parallel import RowwiseParallel
from shardlab import exercises
from shardlab.exercises import real_ranks

class Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, partial):
        total = partial.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        return grad

def add(partial):
    return Sum.apply(partial)

print(exercises.reduce_from_region.check(add).passed)
print(exercises.dtensor_plan.check({"up": RowwiseParallel(), "down": RowwiseParallel()}).mistake)
print(*real_ranks.pools.pools[2].pids)
"""


def test_answers_of_a_notebook_travel_by_value_nothing_is_logged_and_no_process_is_left():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100)
    assert ran.stderr == ""
    passed, mistake, pids = ran.stdout.splitlines()
    assert (passed, mistake) == ("True", "both row-wise")
    limit = time.monotonic() + 10
    while any(map(psutil.pid_exists, map(int, pids.split()))) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, map(int, pids.split())))
