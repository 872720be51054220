"""Layers whose sequence is cut, against their dense twins: values, gradients, what moves, what is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from twins import gradients, refilled

from shardlab import Mesh
from shardlab.compare import kind
from shardlab.layers import (
    MLP,
    Attention,
    ParallelTransformerLayer,
    Replicated,
    SequenceAttention,
    SequenceMLP,
    SequenceNorm,
    SequenceTransformerLayer,
    TransformerLayer,
    clip_grad_norm_,
)

CPU = ["cpu"]
LAYERS = {
    "norm": lambda: (nn.RMSNorm(6, 1e-5), SequenceNorm),
    "layer norm": lambda: (nn.LayerNorm(6), SequenceNorm),
    "mlp with biases": lambda: (MLP(6, 10), SequenceMLP),
    "attention with biases": lambda: (Attention(6, 4, 2, 2, bias=True, theta=100.0), SequenceAttention),
    "layer": lambda: (TransformerLayer(6, 10, 4, 2, 2), SequenceTransformerLayer),
}


def assert_cut_twins(dense, sharded, mesh, x):
    """The same rows of the output, and with a random cotangent the same gradients, each piece where it lies."""
    x = x.requires_grad_()
    y, pieces = dense(x), lambda whole: whole.tensor_split(mesh.size, dim=-2)
    cotangent = torch.randn_like(y)
    y.backward(cotangent)
    x_, cotangent_ = (mesh.shard(t, dim=-2) for t in (x, cotangent))
    y_ = sharded(x_)
    y_.backward(cotangent_)
    for got, want in ((y_.detach(), y.detach()), (x_.grad, x.grad)):
        torch.testing.assert_close(got.shards, [*pieces(want)])
    got = dict(gradients(sharded).named_parameters())  # of what is replicated: one on all shards
    assert [*got] == [name for name, _ in dense.named_parameters()]
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, msg=lambda told, name=name: f"{name}: {told}")


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("n, T", [(1, 3), (2, 4), (3, 7), (8, 8), (8, 5)])
def test_values_and_every_gradient_are_the_dense_twins(make, n, T):
    torch.manual_seed(n)
    mesh, (dense, Sharded) = Mesh(n, devices=CPU), make()
    sharded = Sharded(refilled(dense), mesh)
    assert_cut_twins(dense, sharded, mesh, torch.randn(2, T, 6, dtype=torch.float64))
    assert type(sharded.to_dense()) is type(dense)
    torch.testing.assert_close(sharded.to_dense().state_dict(), dense.state_dict())


@given(n=st.integers(1, 8), T=st.integers(1, 9), kv_heads=st.integers(1, 3), group=st.integers(1, 2))
@settings(max_examples=10, deadline=None)
def test_a_whole_layer_for_any_number_of_shards_and_tokens(n, T, kv_heads, group):
    dense = refilled(TransformerLayer(4, 6, kv_heads * group, kv_heads, 2))
    mesh = Mesh(n, devices=CPU)
    assert_cut_twins(dense, SequenceTransformerLayer(dense, mesh), mesh, torch.randn(T, 4, dtype=torch.float64))


def moved(layer, x_):
    with x_.mesh.record() as traffic:
        layer(x_).sum().backward()
    return traffic


def test_the_same_bytes_but_for_the_norms_and_what_is_gathered_again():
    mesh, (T, width) = Mesh(4, devices=CPU), (8, 6)
    dense, X = TransformerLayer(width, 8, 4, 4, 2), torch.randn(T, width, requires_grad=True)
    plain = moved(ParallelTransformerLayer(dense, mesh), mesh.replicate(X))
    cut = moved(SequenceTransformerLayer(dense, mesh), mesh.shard(X, dim=0))
    forward = [(call.name, list(call.shape)) for call in cut if call.phase == "forward"]
    assert forward[:4] == [("all_gather", [T // 4, width]), ("reduce_scatter", [T, width])] * 2
    assert sum(call.wire for call in cut[:4]) == sum(call.wire for call in plain[:2])
    back = [(call.name, call.payload) for call in cut[4:]]
    large, small = T * width * 4, width * 4
    both = [("all_gather", large)] * 4 + [("all_reduce", small)] * 2 + [("reduce_scatter", large)] * 2
    assert sorted(back) == both  # of the four gathers, two are again of what was not kept
    assert sum(call.wire for call in cut) == plain.wire + 2 * 0.75 * large + 2 * 1.5 * small


def kept(layer, x_):
    """The bytes that shard 0 keeps for backward, besides parameters."""
    own, sizes = {p.data_ptr() for p in layer.parameters()}, {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y_ = layer(x_)  # kept alive, so that no memory is used twice
    return sum(sizes.values()), y_


def test_all_that_is_kept_is_cut():
    T, width, hidden = 64, 32, 128
    dense, X = MLP(width, hidden, bias=False), torch.randn(T, width, requires_grad=True)
    whole, _ = kept(SequenceMLP(dense, Mesh(1, devices=CPU)), Mesh(1, devices=CPU).shard(X, dim=0))
    mesh = Mesh(4, devices=CPU)
    quarter, _ = kept(SequenceMLP(dense, mesh), mesh.shard(X, dim=0))
    assert whole == 4 * T * (width + 2 * hidden) and quarter == whole  # the shards' together: each a quarter


def test_a_norm_without_its_all_reduce_has_a_part_of_the_gradient_on_each_shard():

    mesh, dense, X = Mesh(2, devices=CPU), nn.RMSNorm(4), torch.randn(6, 4)
    dense(X).square().sum().backward()
    for layer, name in ((Replicated(dense, mesh), "partial"), (SequenceNorm(dense, mesh), "replicated")):
        layer(mesh.shard(X, dim=0)).square().sum().backward()
        assert kind(layer.held("weight").grad, dense.weight.grad).name == name


def test_along_an_axis_of_two():
    mesh, dense = Mesh(dp=2, tp=3, devices=CPU), refilled(TransformerLayer(6, 8, 3, 3, 2))
    x, tp = torch.randn(7, 6, dtype=torch.float64), mesh["tp"]
    torch.testing.assert_close(
        SequenceTransformerLayer(dense, tp)(tp.shard(x, dim=0)).shards, [*dense(x).tensor_split(3)] * 2
    )


def a_step(mesh, dense, x, cotangent):
    layer = SequenceTransformerLayer(dense, mesh)
    with mesh.record() as traffic:
        y_ = layer(mesh.shard(x, dim=0))
        y_.backward(mesh.shard(cotangent, dim=0))
    moved = [(call.phase, call.name, list(call.shape)) for call in traffic]
    norm = clip_grad_norm_(layer, 1e9)
    return mesh.all_gather(y_.detach(), dim=0).shards[0], list(gradients(layer).parameters()), norm, moved


@pytest.mark.ranks
def test_over_ranks_it_is_the_dense_one(pool):
    dense, x = refilled(TransformerLayer(6, 8, 3, 1, 2)), torch.randn(5, 6, dtype=torch.float64)
    y, cotangent = dense(x), torch.randn(5, 6, dtype=torch.float64)
    y.backward(cotangent)
    here = a_step(Mesh(2, devices=CPU), dense, x, cotangent)
    for got_y, got_gradients, norm, moved in [here, *pool.run(a_step, dense, x, cotangent, limit=60)]:
        torch.testing.assert_close(got_y, y.detach())
        torch.testing.assert_close([p.detach() for p in got_gradients], [p.grad for p in dense.parameters()])
        torch.testing.assert_close(norm, nn.utils.get_total_norm([p.grad for p in dense.parameters()]))
        assert [call[:2] for call in moved] == [call[:2] for call in here[3]]
