"""What else meets a Shards: numpy, optimizers, hooks, pickle, matplotlib, … Each works, or says what to write instead,
and where an error tells of a way, the way works."""

import copy
import operator
import pickle
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shardlab import Mesh, Shards


def mesh_of(n):
    return Mesh(n, devices=["cpu"])


def numbers(n=2):
    return mesh_of(n).replicate(torch.arange(3.0))


# numpy


@pytest.mark.parametrize("number", [np.float64(2), np.float32(2), np.int64(2), np.array(2.0)])
@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow])
def test_a_number_of_numpy_on_either_side(op, number):
    x_ = numbers()
    for got, want in ((op(number, x_), op(float(number), x_)), (op(x_, number), op(x_, float(number)))):
        assert type(got) is Shards
        assert [t.tolist() for t in got.shards] == [t.tolist() for t in want.shards]


@pytest.mark.parametrize("op", [operator.mul, operator.matmul])
@pytest.mark.parametrize("left", [True, False])
def test_an_array_is_to_be_placed(op, left):
    def meet(w_, array):
        return op(array, w_) if left else op(w_, array)

    w_, array = mesh_of(2).replicate(torch.eye(4)), np.ones((4, 4))
    with pytest.raises(TypeError, match=r"a numpy array of shape \[4, 4\].*mesh\.replicate\(torch\.from_numpy\(x\)\)"):
        meet(w_, array)
    placed_ = w_.mesh.replicate(torch.from_numpy(array).float())
    assert meet(w_, placed_).shape == (4, 4)


ONE = {
    "np.asarray": np.asarray,
    "np.array": np.array,
    "np.stack": lambda x_: np.stack([x_, x_]),
    "torch.tensor": torch.tensor,
    "torch.as_tensor": torch.as_tensor,
    "plt.hist": lambda x_: plt.hist(x_),
    "plt.imshow": lambda x_: plt.imshow(x_[None]),
    "plt.bar": lambda x_: plt.bar([0, 1, 2], x_),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # plain tensors give them, too
@pytest.mark.parametrize("name", ONE)
def test_what_takes_one_array_is_told_which(name):
    take = ONE[name]
    x_ = numbers()
    with pytest.raises(TypeError, match=r"a Shards is several tensors, and this takes one: x_\.shards\[0\]"):
        take(x_)
    take(x_.shards[0])
    plt.close("all")


# one answer


@pytest.mark.parametrize(
    "ask", [float, int, range, *(operator.methodcaller(name) for name in ("item", "tolist", "numpy"))]
)
def test_shards_that_disagree_can_be_asked_each(ask):
    x_ = mesh_of(3).rank
    with pytest.raises(ValueError, match="do not agree") as told:
        ask(x_)
    way = re.search(r"\[.* for t in x_\.shards\]", str(told.value))[0]
    if "…" not in way:
        assert [int(answer) for answer in eval(way, {"x_": x_})] == [0, 1, 2]


def test_lengths_that_differ():
    x_ = mesh_of(2).shard(torch.ones(3), dim=0)
    with pytest.raises(ValueError, match=r"`len`: shard 0: 2; shard 1: 1\. Ask each one: \[len\(t\) for t in"):
        len(x_)
    with pytest.raises(ValueError, match=r"\[t\.shape for t in x_\.shards\]"):
        x_.shape  # noqa: B018
    with pytest.raises(ValueError, match=r"\[format\(t, …\) for t in x_\.shards\]"):
        format(mesh_of(2).rank, "d")
    assert f"{mesh_of(2).replicate(torch.tensor(0.5)):.2f}" == "0.50"


# a gradient's way


def test_a_trained_number_is_to_be_placed():
    """In one process it would count once per shard, over ranks once (pytorch/torchtitan#1373)."""
    scale, x_ = torch.tensor(2.0, requires_grad=True), mesh_of(4).replicate(torch.ones(3))
    for meet in (
        lambda: scale * x_,
        lambda: x_ * scale,
        lambda: torch.add(x_, scale),
        lambda: x_ * nn.Parameter(scale),
    ):
        with pytest.raises(TypeError, match=r"scale_ = mesh\.replicate\(scale\)"):
            meet()
    scale_ = x_.mesh.replicate(scale)
    (scale_ * x_).sum().backward()
    assert [grad.item() for grad in scale_.grad.shards] == [3.0] * 4
    with torch.no_grad():
        assert (scale * x_).shards[3].tolist() == [2.0] * 3
    assert (torch.tensor(2.0) * x_).shards[3].tolist() == [2.0] * 3


def test_a_computed_shards_has_no_gradient_of_its_own():
    w_ = numbers().requires_grad_()
    y_ = w_ * w_
    with pytest.raises(RuntimeError, match=r"no leaf.*retain_grad"):
        y_.grad  # noqa: B018
    y_.retain_grad()
    y_.sum().backward()
    assert y_.grad.shards[0].tolist() == [1, 1, 1] and w_.grad.shards[1].tolist() == [0, 2, 4]


def test_clip_grad_norm_of_a_shards_is_not_silent():
    """It went over the rows, found no gradient and clipped nothing (karpathy/build-nanogpt#17)."""
    w_ = mesh_of(2).shard(torch.ones(2, 4, requires_grad=True), dim=1)
    (w_ * w_).sum().backward()
    with pytest.raises(RuntimeError, match=r"clip_grad_norm_ .*hand it x_\.shards"):
        nn.utils.clip_grad_norm_(w_, 1.0)
    assert nn.utils.clip_grad_norm_(w_.shards, 1.0).item() == pytest.approx(32**0.5)
    assert w_.grad.shards[0][0].tolist() == pytest.approx([2 / 32**0.5] * 2)


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_is_registered_once_and_removed_together(register):
    w_, seen = numbers(), []
    w_.requires_grad = True

    def hook(tensor):
        seen.append(tensor.shape)
        return tensor * 2 if register == "register_hook" else None

    handle = getattr(w_, register)(hook)
    (w_ * 3).sum().backward()
    assert len(seen) == 2
    assert w_.grad.shards[0].tolist() == ([6.0] * 3 if register == "register_hook" else [3.0] * 3)
    handle.remove()
    (w_ * 3).sum().backward()
    assert len(seen) == 2


def test_the_scaled_loss_of_a_grad_scaler():
    w_ = numbers().requires_grad_()
    loss_ = w_.mesh.all_reduce((w_ * w_).sum())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with pytest.raises(TypeError, match=r"Shards\(scaler\.scale\(loss_\.shards\), mesh\)"):
        scaler.scale(loss_)
    Shards(scaler.scale(loss_.shards), w_.mesh).backward()
    assert w_.grad.shards[1].tolist() == [0, 8, 16]
    scaler.step(torch.optim.SGD(w_.shards, lr=1.0))
    assert w_.shards[1].tolist() == [0, -1, -2]


# attributes that are set


def test_requires_grad_is_set():
    w_ = numbers()
    w_.requires_grad = True
    assert [t.requires_grad for t in w_.shards] == [True, True] and w_.requires_grad is True
    w_.requires_grad = False
    assert w_.requires_grad is False
    with pytest.raises(RuntimeError, match="shard 0"):
        (numbers().requires_grad_() * 2).requires_grad = False


def test_a_parameter_is_one_tensor():
    with pytest.raises(TypeError, match=r"torch\.nn\.ParameterList\(w_\.shards\) makes parameters"):
        nn.Parameter(numbers())
    w_ = numbers()
    parameters = nn.ParameterList(w_.shards)
    assert all(isinstance(p, nn.Parameter) for p in parameters)
    assert Shards(list(parameters), w_.mesh).requires_grad


def test_it_is_copied_but_not_pickled(tmp_path):
    x_ = numbers()
    for save in (pickle.dumps, lambda x_: torch.save(x_, tmp_path / "x.pt")):
        with pytest.raises(TypeError, match=r"save x_\.shards.*Shards\(tensors, mesh\)"):
            save(x_)
    torch.save(x_.shards, tmp_path / "x.pt")
    again_ = Shards(torch.load(tmp_path / "x.pt", weights_only=True), x_.mesh)
    assert all(map(torch.equal, again_.shards, x_.shards))
    twin_ = copy.copy(x_)
    assert all(a is b for a, b in zip(twin_.shards, x_.shards, strict=True)) and twin_.shards is not x_.shards


@pytest.mark.parametrize("wrong", [[None, None], [1.0, 2.0], [np.ones(2)] * 2, "ab"])
def test_shards_are_tensors(wrong):
    with pytest.raises(TypeError, match="shard 0 is to be a tensor, not"):
        Shards(wrong, mesh_of(2))


# modules, and functions that write


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 4), lambda: nn.LayerNorm(3), lambda: nn.PReLU(3)])
def test_a_dense_module_says_which_layers_there_are(make):
    with pytest.raises(TypeError, match=r"a parameter: the layers of shardlab\.layers .*Replicated\(module, mesh\)"):
        make()(numbers())


WRITES = {
    "%=": lambda y_: operator.imod(y_, 2),
    "+=": lambda y_: operator.iadd(y_, 1),
    "**=": lambda y_: operator.ipow(y_, 2),
    "max_norm": lambda y_: F.embedding(y_.mesh.rank[None], y_, max_norm=1.0),
    "max_norm by place": lambda y_: F.embedding(y_.mesh.rank[None], y_, None, 1.0),
    "max_norm by name": lambda y_: F.embedding(input=y_.mesh.rank[None], weight=y_, max_norm=1.0),
    "embedding_bag": lambda y_: F.embedding_bag(y_.mesh.rank[None, None], y_, max_norm=1.0),
    "inplace by place": lambda y_: F.relu(y_, True),
    "hardtanh": lambda y_: F.hardtanh(y_, 0.0, 1.0, True),
}


@pytest.mark.parametrize("mesh", [mesh_of(2), Mesh(dp=2, tp=2, devices=["cpu"])["tp"], mesh_of(1)], ids=str)
@pytest.mark.parametrize("name", WRITES)
def test_nothing_writes_into_what_a_collective_left_equal(name, mesh):
    w_ = mesh.all_gather(mesh.shard(5 * torch.ones(4, 4), dim=0), dim=0)
    before = w_.shards[0].clone()
    with pytest.raises(RuntimeError, match=r"memory that several shards share.*x_\.clone\(\)"):
        WRITES[name](w_)
    assert all(torch.equal(w, before) for w in w_.shards)
    WRITES[name](w_.clone())


def test_an_embedding_that_does_not_write_may_be_shared():
    mesh = mesh_of(2)
    w_ = mesh.all_gather(mesh.shard(torch.ones(4, 4), dim=0), dim=0)
    assert F.embedding(mesh.rank[None], w_).shape == (1, 4)
    assert F.relu(w_).shape == F.hardtanh(w_, 0.0, 1.0).shape == (4, 4)


@pytest.mark.parametrize("move", ["scatter", "reduce_scatter", "all_reduce", "copy", "all_gather", "shift"])
def test_a_gradient_may_be_written_into(move):
    mesh = mesh_of(3)
    x_ = mesh.replicate(torch.ones(3, 3, requires_grad=True))
    dims = [0] if move in ("scatter", "reduce_scatter", "all_gather") else []
    getattr(mesh, move)(x_, *dims).sum().backward()
    before = [grad.clone() for grad in x_.grad.shards]
    x_.grad *= 2
    assert all(torch.equal(2 * was, now) for was, now in zip(before, x_.grad.shards, strict=True))
