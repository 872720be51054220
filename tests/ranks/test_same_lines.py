"""The same lines give the same in one process and over ranks, or one of the two refuses them and says what to write."""

import pytest
import torch

from shardlab import Mesh
from shardlab.compare import kind

pytest.importorskip("cloudpickle")  # where torch is the system's
from shardlab.ranks import RankError

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]


def weights(mesh):
    W = torch.arange(12.0).reshape(3, 4) / 10
    return mesh.replicate(torch.ones(2, 3)), mesh.shard(W.requires_grad_(), dim=1)


def loss(mesh):
    X_, W_ = weights(mesh)
    return (mesh.all_gather(X_ @ W_, dim=1) ** 2).sum(), W_


def stay_with_the_shards(mesh):
    loss_, W_ = loss(mesh)
    loss_.backward()
    return W_.grad


def a_plain_loss_of_the_first_shard(mesh):
    X_, W_ = weights(mesh)
    y = mesh.all_gather(X_ @ W_, dim=1).shards[0]
    (y**2).sum().backward()
    return W_.grad


def the_mean_of_the_losses(mesh):
    loss_, W_ = loss(mesh)
    torch.stack(loss_.shards).mean().backward()
    return W_.grad


def a_plain_scale(mesh):
    scale = torch.tensor(2.0, requires_grad=True)
    (scale * mesh.replicate(torch.ones(3))).sum().backward()
    return scale.grad


def a_placed_scale(mesh):
    scale_ = mesh.replicate(torch.tensor(2.0, requires_grad=True))
    (scale_ * mesh.replicate(torch.ones(3))).sum().backward()
    return scale_.grad


def a_history(mesh):
    return mesh.replicate(torch.ones(3, requires_grad=True) * 2)


def a_history_cut(mesh):
    return mesh.shard(torch.nn.Linear(3, 4).weight.T, dim=1)


def exp_given_away(mesh):
    x_ = mesh.replicate(torch.ones(3, requires_grad=True))
    mesh.all_reduce(x_.exp(), donate=True).sum().backward()
    return x_.grad


def a_product_given_away(mesh):
    x_ = mesh.replicate(torch.ones(3, requires_grad=True))
    mesh.all_reduce(3 * x_, donate=True).sum().backward()
    return x_.grad


def added_in_place(mesh):
    y_ = mesh.all_reduce(mesh.replicate(torch.ones(3)))
    y_ += 1
    return y_


def a_part_of_it_set(mesh):
    y_ = mesh.all_gather(mesh.shard(torch.ones(4), dim=0), dim=0)
    y_[0] = 1
    return y_


def added_to_a_clone(mesh):
    y_ = mesh.broadcast(mesh.replicate(torch.ones(3))).clone()
    y_ += mesh.rank
    return y_


def a_gradient_scaled_in_place(mesh):
    x_ = mesh.replicate(torch.ones(4, requires_grad=True))
    (mesh.scatter(x_, dim=0) + mesh.reduce_scatter(mesh.copy(x_), dim=0)).sum().backward()
    x_.grad *= 2
    return x_.grad


def added_to_what_was_shifted(mesh):
    x_ = mesh.replicate(torch.zeros(3)) + mesh.rank
    y_ = mesh.shift(x_)
    y_ += 5
    return torch.stack([x_, y_])


SAME = [stay_with_the_shards, a_placed_scale, a_product_given_away, added_to_a_clone, a_gradient_scaled_in_place]
SAME += [added_to_what_was_shifted]
REFUSED = {  # in both, with these words
    a_plain_scale: "scale_ = mesh.replicate(scale)",
    a_history: "place x.detach()",
    a_history_cut: "place x.detach()",
    exp_given_away: "modified by an inplace operation",
    added_in_place: "x_.clone()",
    a_part_of_it_set: "x_.clone()",
}
REFUSED_HERE = {  # since one process holds what each rank has of its own
    a_plain_loss_of_the_first_shard: "loss_.backward()",
    the_mean_of_the_losses: "loss_.backward()",
}


@pytest.mark.parametrize("lines", SAME, ids=lambda lines: lines.__name__)
def test_the_same_lines_give_the_same(pool, lines):
    here, there = lines(Mesh(2, devices=["cpu"])).shards, pool.run(lines).shards
    assert len(here) == len(there) == 2
    assert [x.tolist() for x in here] == [x.tolist() for x in there]


@pytest.mark.parametrize("lines", REFUSED, ids=lambda lines: lines.__name__)
def test_what_is_refused_here_is_refused_on_ranks(pool, lines):
    with pytest.raises((RuntimeError, TypeError, ValueError)) as here:
        lines(Mesh(2, devices=["cpu"]))
    with pytest.raises(RankError) as there:
        pool.run(lines)
    assert REFUSED[lines] in str(here.value) and REFUSED[lines] in str(there.value)


@pytest.mark.parametrize("lines", REFUSED_HERE, ids=lambda lines: lines.__name__)
def test_what_only_ranks_can_do_is_refused_here(pool, lines):
    with pytest.raises(RuntimeError) as here:
        lines(Mesh(2, devices=["cpu"]))
    assert REFUSED_HERE[lines] in str(here.value)
    assert [g.tolist() for g in pool.run(lines).shards] == [g.tolist() for g in pool.run(stay_with_the_shards).shards]


def kinds(mesh):
    """What one and the same program's values and gradients are, over any mesh of two."""
    X, W = torch.arange(15.0).reshape(3, 5) / 10, torch.arange(20.0).reshape(5, 4) / 10
    X_, W_ = mesh.replicate(X.requires_grad_()), mesh.shard(W, dim=1)
    (X_ @ W_).sum().backward()
    found = [kind(X_.grad, torch.ones(3, 4) @ W.T), kind(X_ @ W_, X @ W), kind(X_ * 3, X), kind(X_ + mesh.rank, X)]
    return [repr(one) for one in found]


def test_kinds_are_on_ranks_what_they_are_here(pool):
    here = kinds(Mesh(2, devices=["cpu"]))
    assert [told.split()[0] for told in here] == ["partial", "cut", "none", "none"] and "3 times" in here[2]
    assert pool.run(kinds) == [here, here]
