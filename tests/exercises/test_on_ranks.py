"""The checks where ranks run, as under torchrun: every wrong answer by its name, and what goes wrong on one rank."""

import os
import sys
import time

import pytest
import test_exercises as here
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from shardlab import exercises
from shardlab.exercises import real_ranks, split
from shardlab.exercises.verdict import UNSOLVED, Verdict

pytestmark = pytest.mark.ranks

NOT_ON_RANKS = {"reads other shards"}  # there are no other shards to read
SAME_ON_TWO = {  # on two shards these are right, or another mistake: the check in one process goes up to four
    ("row_linear", "a constant factor", 0),
    ("row_linear", "extra communication", 1),
    ("weighted_sum", "other weights", 0),
    ("weighted_sum", "other weights", 1),
    ("row_linear", "gather on the wrong dim", 0),
    ("row_bias", "bias not counted once", 0),
    ("row_bias", "bias twice", 0),
    ("row_bias", "bias taken back once", 0),
    ("row_bias", "half the bias", 0),
    ("uneven_linear", "trimmed by nothing", 0),
    ("row_backward", "g with an all-reduce behind it", 1),
    ("embedding", "gathered, then added", 0),
    ("cross_entropy", "one-hot gathered", 0),  # as many bytes as all the logits
    ("cross_entropy", "a part detached", 0),
    ("ring_all_reduce", "the size has to divide", 0),
    ("cross_entropy", "copy of a cut tensor", 0),
    ("embedding", "copy of a cut tensor", 0),  # an uneven one, which the ranks refuse in their own words
    ("padded_linear", "padding in between", 0),
    ("padded_linear", "padded by N % n", 0),
}
ONE_PROCESS = {"decoy", "chunk_with_zip", "chunk_in_a_loop", "uneven_last_takes_the_rest"}  # written for all the shards


ALL_OF = {  # of the others, one answer of each mistake that no exercise before has
    "weighted_sum",
    "column_linear",
    "row_linear",
    "reduce_then_activate",
    "row_bias",
    "uneven_linear",
    "padded_linear",
}


def wrong_answers():
    for name, table in here.WRONG.items():
        for mistake, answers in table.items():
            for index, answer in enumerate(answers[: None if name in ALL_OF else 1]):
                gradients = isinstance(answer, tuple)
                answer = answer[1] if gradients else answer
                key = (name, mistake, index)
                left_out = mistake in NOT_ON_RANKS or key in SAME_ON_TWO or answer.__name__ in ONE_PROCESS
                if not left_out and (name in ALL_OF or mistake not in here.told_before(name)):
                    yield key, answer, gradients


# ---------------------------------------------------------------- on one rank only


def raises_on_one(mesh, X, W):
    if mesh.ranks[0] == 1:
        return 1 / 0
    return mesh.all_reduce(X @ W)


def communicates_on_one(mesh, X, W):
    y_ = mesh.all_reduce(X @ W)
    return mesh.all_reduce(y_) if mesh.ranks[0] == 0 else y_


def by_torch_on_one(mesh, X, W):
    if mesh.ranks[0] == 0:
        dist.barrier()
    return mesh.all_reduce(X @ W)


def returns_early_on_one(mesh, X, W):
    return X @ W if mesh.ranks[0] == 1 else mesh.all_reduce(X @ W)


def sleeps_on_one(mesh, X, W):
    if mesh.ranks[0] == 1:
        time.sleep(1000)
    return mesh.all_reduce(X @ W)


def loops_on_all(mesh, X, W):
    while True:
        pass


def ends_on_one(mesh, X, W):
    if mesh.ranks[0] == 1:
        os._exit(3)
    return mesh.all_reduce(X @ W)


def rude(mesh, X, W):
    torch.set_default_dtype(torch.float16), torch.set_default_device("meta"), torch.set_grad_enabled(False)
    os.chdir("/")
    return 1


ALONE = {  # answer: the mistake, and what its message says
    raises_on_one: ("an error", ["rank 1", "ZeroDivisionError: division by zero"]),
    communicates_on_one: ("waits for ever", ["rank 0 waits in all_reduce", "rank 1 has returned"]),
    by_torch_on_one: ("waits for ever", ["rank 0", "by_torch_on_one, line"]),
    returns_early_on_one: ("waits for ever", ["rank 1", "all_reduce"]),
    sleeps_on_one: ("waits for ever", ["rank 1", "sleeps_on_one, line", "time.sleep(1000)"]),
    loops_on_all: ("waits for ever", ["rank", "loops_on_all, line", "of test_on_ranks.py"]),
    ends_on_one: ("an error", ["rank 1 ended with exit status 3"]),
    rude: ("not a Shards", ["int"]),
}


def row(mesh, X, W):
    return mesh.all_reduce(X @ W)


def own(rank):
    """Each rank's own answer: one line has the rank in it as a number."""
    return lambda mesh, X, W: mesh.all_reduce(X @ W) + (rank - mesh.rank)


def alone(rank):
    """Each answer that goes wrong on one rank, and a right one after it."""
    got, limit = {"own": exercises.row_linear.check(own(rank), gradients=True)}, real_ranks.LIMIT
    for answer in ALONE:
        if answer in (by_torch_on_one, sleeps_on_one, loops_on_all):  # the others are told at once
            real_ranks.LIMIT = 3.0
        got[answer.__name__] = exercises.row_linear.check(answer)
        real_ranks.LIMIT = limit
        got["after", answer.__name__] = exercises.row_linear.check(row, gradients=True)
    return got


# ---------------------------------------------------------------- two ranks, and what they say


def checks(rank):
    got = alone(rank)
    for name, answers in here.RIGHT.items():
        over_ranks = [answer for answer in answers if answer.__name__ not in ONE_PROCESS]
        for index, answer in enumerate(over_ranks[: 2 if name in ALL_OF else 1]):
            got["right", name, index] = here.SPLITS[name].check(answer, gradients=True)
    for key, answer, gradients in wrong_answers():
        got[key] = here.SPLITS[key[0]].check(answer, gradients)
    for name, answer in here.THREE.items():
        got["right", name] = here.ALL[name].check(answer)
    got["unsolved"] = exercises.row_linear.check(lambda mesh, X, W: ...)
    return got


def run_rank(rank, size, store, results):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ["SHARDLAB_DEVICES"] = "cpu"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        got = checks(rank)
        results.put((rank, {key: (v.passed, v.mistake, v.message) for key, v in got.items() if isinstance(v, Verdict)}))
    finally:
        real_ranks.pools.close()
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What two ranks say of each answer, by rank."""
    results = mp.get_context("spawn").Queue()
    store = tmp_path_factory.mktemp("ranks") / "store"
    context = mp.spawn(run_rank, (2, store, results), nprocs=2, join=False)
    try:
        got = dict(results.get(timeout=400) for _ in range(2))
        assert any(context.join(timeout=60) for _ in range(2))  # each call waits for one of them to end
    finally:
        for process in context.processes:
            process.kill()
    return got


@pytest.mark.timeout(500)
def test_all_ranks_get_the_same_verdict(verdicts):
    assert verdicts[0] == verdicts[1]


def test_right_answers_pass(verdicts):
    right = {key: said for key, said in verdicts[0].items() if "right" in key or "after" in key or key == "own"}
    assert len(right) > len(here.RIGHT) + len(here.THREE)
    assert all(passed for passed, *_ in right.values()), right


def test_every_wrong_answer_is_told_its_own_mistake(verdicts, monkeypatch):
    wrong = {
        key: said for key, said in verdicts[0].items() if type(key) is tuple and len(key) == 3 and key[0] != "right"
    }
    assert len(wrong) > 100
    others = {key: said[1] for key, said in wrong.items() if said[1] != key[1]}
    monkeypatch.setattr(split, "world", lambda: 2)  # cases of 2 shards, in this process
    asked = {key: (answer, gradients) for key, answer, gradients in wrong_answers()}
    told_here = {key: here.SPLITS[key[0]].check(*asked[key]).mistake for key in others}  # (n - 1) b is b where n is 2
    differ = {key: (others[key], told_here[key]) for key in others if others[key] != told_here[key]}
    assert len(differ) <= 5, differ  # inputs are fresh, and ranks have words of their own for what they refuse
    assert len(others) < len(wrong) / 10, others
    assert verdicts[0]["unsolved"][1] == UNSOLVED


@pytest.mark.parametrize("answer", ALONE)
def test_what_goes_wrong_on_one_rank_is_told_and_the_next_check_is_right(verdicts, answer):
    mistake, words = ALONE[answer]
    passed, found, message = verdicts[0][answer.__name__]
    assert (passed, found) == (False, mistake), message
    assert all(word in message for word in words), message
    assert verdicts[0]["after", answer.__name__][0], verdicts[0]["after", answer.__name__]
