"""What travels between the kernel and its ranks, and how it comes back."""

import importlib
import random
import sys
import threading
from functools import partial
from typing import NamedTuple

import pytest
import torch

from shardlab import Mesh, Shards

pytest.importorskip("cloudpickle")  # where torch is the system's
from shardlab.ranks import RankError, parcels, ranks

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def pool():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDLAB_DEVICES", "cpu")
        with ranks(2) as pool:
            yield pool


STRIDED = [
    torch.randn(1, 4)[:, 0],  # one element, four apart from the next that is not there
    torch.randn(3, 4)[:1, 2],
    torch.ones(3).sum().expand(1),
    torch.randn(8)[::4][:1],
    torch.empty(0, 2)[:, 0],
    torch.randn(3, 4).T[::2],
    torch.randn(2, 3, dtype=torch.complex64).conj().T,
    torch.randn(6, dtype=torch.bfloat16)[1::3],
]


@pytest.mark.parametrize("tensor", STRIDED, ids=lambda tensor: f"{list(tensor.shape)} by {tensor.stride()}")
def test_a_tensor_travels_whatever_its_strides(pool, tensor):
    for back in pool.run(lambda mesh, x: x, tensor):
        assert back.dtype is tensor.dtype and back.shape == tensor.shape and torch.equal(back, tensor)


def test_shards_of_one_number_each_come_back(pool):
    y_ = pool.run(lambda mesh, X: mesh.replicate(X)[:, 0], torch.arange(4.0).reshape(1, 4) + 5)
    assert [shard.tolist() for shard in y_.shards] == [[5.0], [5.0]]


def test_shards_that_are_trained_are_trained_on_the_ranks_too(pool):
    def lesson(mesh, w_):
        loss_ = mesh.all_reduce((w_ * w_).sum())
        loss_.backward()
        return w_.grad

    mesh = Mesh(2, devices=["cpu"])
    W = torch.randn(3, 4, requires_grad=True)
    grad_ = pool.run(lesson, mesh.shard(W, dim=1))
    assert torch.equal(torch.cat(grad_.shards, dim=1), 2 * W.detach())
    assert pool.run(lambda mesh, x_: x_.requires_grad, mesh.shard(W.detach(), dim=1)) == [False, False]


class Pair(NamedTuple):
    left: object
    right: object


def test_shards_come_back_put_together_wherever_they_are(pool):
    def here(mesh):
        return mesh.replicate(torch.ones(2)) * (1 + mesh.rank)

    def numbers(x_):
        assert isinstance(x_, Shards)
        return [shard.tolist() for shard in x_.shards]

    both = [[1.0, 1.0], [2.0, 2.0]]
    found = pool.run(lambda mesh: {"grads": [here(mesh), (here(mesh), "a")], "y": Pair(here(mesh), mesh.ranks[0])})
    assert numbers(found["grads"][0]) == numbers(found["grads"][1][0]) == numbers(found["y"].left) == both
    assert type(found["grads"]) is list and found["grads"][1][1] == ["a", "a"]
    assert type(found["y"]) is Pair and found["y"].right == [0, 1]


def test_shards_of_some_ranks_alone_come_back_as_tensors(pool):
    found = pool.run(lambda mesh: mesh.replicate(torch.ones(2)) if mesh.ranks == [0] else None)
    assert torch.equal(found[0], torch.ones(2)) and found[1] is None
    found = pool.run(lambda mesh: (1, 2) if mesh.ranks == [0] else mesh.replicate(torch.ones(2)))
    assert found[0] == (1, 2) and torch.equal(found[1], torch.ones(2))


def test_what_cannot_go_is_found_in_functions_that_call_each_other(pool):
    lock, pids = threading.Lock(), pool.pids

    def ping(mesh):
        return pong(mesh)

    def pong(mesh):
        with lock:
            return ping(mesh)

    with pytest.raises(parcels.CannotShip, match=r"`lock` \(lock\), which `pong` uses, cannot be sent"):
        pool.run(ping)
    assert pool.pids == pids, "the ranks know of nothing"


def test_a_name_without_a_value_yet_is_no_riddle(pool):
    def lesson(mesh):
        return later, lock

    lock = threading.Lock()
    with pytest.raises(parcels.CannotShip, match="cannot be sent to the ranks: cannot pickle '_thread.lock'"):
        pool.run(lesson)
    later = 1


def test_a_lesson_from_a_file_of_the_users_own_goes_as_it_is_now(pool, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"own_{random.getrandbits(40)}"
    file = tmp_path / f"{name}.py"
    file.write_text("def helper(): return 'old'\ndef lesson(mesh): return helper()\n")
    own = importlib.import_module(name)
    try:
        assert pool.run(own.lesson) == ["old", "old"]
        file.write_text("def helper(): return 'new and longer'\ndef lesson(mesh): return helper()\n")
        own = importlib.reload(own)
        for lesson in (own.lesson, partial(own.lesson)):
            assert pool.run(lesson) == ["new and longer"] * 2
    finally:
        del sys.modules[name]


def test_what_ranks_printed_is_shown_when_they_fail(pool, capsys):
    def lesson(mesh):
        print("step 1: x =", 3 + mesh.ranks[0])
        if mesh.ranks == [1]:
            raise ValueError("here")
        return mesh.all_reduce(mesh.rank)

    with pytest.raises(RankError, match="rank 1 raised ValueError: here"):
        pool.run(lesson)
    assert "rank 1: step 1: x = 4\n" in capsys.readouterr().out
