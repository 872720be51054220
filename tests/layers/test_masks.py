"""Dropout on shards: one mask, whatever the cut, and of the right sort."""

import pytest
import torch

from shardlab import Mesh
from shardlab.layers import dropout
from shardlab.layers.masks import mask

CPU = ["cpu"]
X = torch.randn(7, 10, dtype=torch.float64)


def dropped(n, dim, p=0.3, seed=5):
    mesh = Mesh(n, devices=CPU)
    x_ = mesh.replicate(X) if dim is None else mesh.shard(X, dim)
    return dropout(mesh, x_, p, seed, dim).shards


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_the_whole_is_the_same_for_every_cut(n):
    (whole,) = dropped(1, None)
    assert all(torch.equal(each, whole) for each in dropped(n, None))
    for dim in (0, 1, -1):
        assert torch.equal(torch.cat(dropped(n, dim), dim), whole)


def test_it_is_dropout_and_its_gradient():
    (whole,), mesh = dropped(1, None), Mesh(2, devices=CPU)
    kept = whole != 0
    torch.testing.assert_close(whole, X * kept / 0.7)
    x_ = mesh.shard(X.clone().requires_grad_(), dim=0)
    dropout(mesh, x_, 0.3, 5, dim=0).sum().backward()
    torch.testing.assert_close(torch.cat(x_.grad.shards), kept.double() / 0.7)
    assert torch.equal(dropped(1, None, p=0)[0], X) and not torch.equal(dropped(1, None, seed=6)[0], whole)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_look_like_coins(p):
    """Over 200 seeds: the rate is p, and neighbours, rows, columns and seeds know nothing of each other."""
    masks = torch.stack([mask((64, 48), p, seed) for seed in range(200)]).double() - (1 - p)
    count, spread = masks.numel(), p * (1 - p)
    assert masks.mean().abs() < 5 * (spread / count) ** 0.5
    for other in (masks.roll(1, 0), masks.roll(1, 1), masks.roll(1, 2), masks.roll((1, 1), (1, 2))):
        assert (masks * other).mean().abs() < 5 * spread / count**0.5
    for dims in ((0,), (1,), (2,)):  # of a coin, the means of a row vary as much as they should
        means = masks.mean([d for d in range(3) if d not in dims])
        assert means.var() < 2 * spread / (count / len(means))


def test_p_of_one_is_refused():
    mesh = Mesh(2, devices=CPU)
    with pytest.raises(ValueError, match="p is from 0 up to, but not, 1, not 1"):
        dropout(mesh, mesh.replicate(X), 1, 0)


def on_ranks(mesh, X):
    with mesh.record() as traffic:
        whole = dropout(mesh, mesh.replicate(X), 0.3, 5).shards[0]
        pieces_ = dropout(mesh, mesh.shard(X, 0), 0.3, 5, dim=0)
    return whole, mesh.all_gather(pieces_, dim=0).shards[0], [call.payload for call in traffic]


@pytest.mark.ranks
def test_over_ranks_it_is_the_same(pool):
    for whole, pieces, moved in pool.run(on_ranks, X):
        assert torch.equal(whole, dropped(1, None)[0]) and torch.equal(pieces, whole)
        assert moved == [2 * 8]  # the lengths of two pieces
