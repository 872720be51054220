"""The layers against their dense twins: values, every gradient, what moved, and what an optimizer makes of them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shardlab import Mesh, Shards
from shardlab.compare import assert_close
from shardlab.layers import ColumnParallelLinear, RowParallelLinear

CPU = ["cpu"]


def twins(n, bias=True, sizes=(5, 7, 4), dtype=torch.float64):
    """A dense two-layer block, and the same on n shards."""
    mesh = Mesh(n, devices=CPU)
    first = nn.Linear(sizes[0], sizes[1], bias=bias, dtype=dtype)
    second = nn.Linear(sizes[1], sizes[2], bias=bias, dtype=dtype)
    return mesh, (first, second), (ColumnParallelLinear(first, mesh), RowParallelLinear(second, mesh))


def run(block, x):
    first, second = block
    return second(torch.tanh(first(x)))


@given(
    n=st.integers(1, 8),
    sizes=st.tuples(*[st.integers(1, 12)] * 3),
    lead=st.lists(st.integers(1, 3), max_size=2),
    bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_values_and_every_gradient_are_the_dense_twins(n, sizes, lead, bias):
    mesh, dense, sharded = twins(n, bias, sizes)
    x = torch.randn(*lead, sizes[0], dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(*lead, sizes[2], dtype=torch.float64)
    y = run(dense, x)
    y.backward(cotangent)
    x_ = mesh.replicate(x)
    y_ = run(sharded, x_)
    y_.backward(mesh.replicate(cotangent))
    for rank in range(n):
        torch.testing.assert_close(y_.shards[rank], y)
        torch.testing.assert_close(x_.grad.shards[rank], x.grad)
    for layer, twin in zip(sharded, dense, strict=True):
        for weight, want in zip(layer.weight.grad.shards, twin.weight.grad.tensor_split(n, layer.dim), strict=True):
            torch.testing.assert_close(weight, want)
    if bias:
        for got, want in zip(sharded[0].bias.grad.shards, dense[0].bias.grad.tensor_split(n), strict=True):
            torch.testing.assert_close(got, want)
        for got in sharded[1].bias.grad.shards:
            torch.testing.assert_close(got, dense[1].bias.grad)


@pytest.mark.parametrize("n", range(1, 9))
def test_one_all_reduce_forward_and_one_backward(n):
    mesh, _, sharded = twins(n)
    x_ = mesh.replicate(torch.randn(3, 5, dtype=torch.float64, requires_grad=True))
    with mesh.record() as traffic:
        run(sharded, x_).sum().backward()
    said = [(call.phase, call.name, list(call.shape), call.payload) for call in traffic]
    assert said == [("forward", "all_reduce", [3, 4], 96), ("backward", "all_reduce", [3, 5], 120)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_short_types_stay_within_the_tolerance(n, dtype):
    mesh = Mesh(n, devices=CPU)
    dense = nn.Linear(96, 40, dtype=dtype)
    X, W, b = torch.randn(6, 96).to(dtype), dense.weight.T, dense.bias
    assert_close(ColumnParallelLinear(dense, mesh)(mesh.replicate(X)), X, W, b, dim=-1)
    assert_close(RowParallelLinear(dense, mesh)(mesh.shard(X, dim=-1)), X, W, b)


@pytest.mark.parametrize("kind", [ColumnParallelLinear, RowParallelLinear])
@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_to_dense_gives_the_layer_back(kind, n, bias):
    dense = nn.Linear(6, 10, bias=bias)
    again = kind(dense, Mesh(n, devices=CPU)).to_dense()
    assert torch.equal(again.weight, dense.weight) and again.weight is not dense.weight
    assert torch.equal(again.bias, dense.bias) if bias else again.bias is None


@pytest.mark.parametrize("kind", [ColumnParallelLinear, RowParallelLinear])
def test_it_is_an_ordinary_module(kind):
    mesh = Mesh(3, devices=CPU)
    layer, other = kind(nn.Linear(6, 10), mesh), kind(nn.Linear(6, 10), mesh)
    assert [name for name, _ in layer.named_parameters()] == [f"{k}_{r}" for k in ("weight", "bias") for r in range(3)]
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in layer.parameters())
    assert isinstance(layer.weight, Shards) and layer.weight.shards[1] is layer.weight_1
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.to_dense().weight, layer.to_dense().weight)
    twin = copy.deepcopy(layer)
    twin.weight_0.data.zero_()
    assert layer.weight_0.any() and layer.mesh is twin.mesh
    assert layer.double().weight.dtype == torch.float64
    assert "in_features=6, out_features=10" in repr(layer)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("n", [2, 3, 8])
def test_an_optimizer_steps_it_as_the_dense_twin(n, optimizer):
    mesh, dense, sharded = twins(n)
    parameters = [[p for layer in block for p in layer.parameters()] for block in (dense, sharded)]
    steppers = [optimizer(p) for p in parameters]
    for _ in range(4):
        x = torch.randn(3, 5, dtype=torch.float64)
        for block, stepper, entering in ((dense, steppers[0], x), (sharded, steppers[1], mesh.replicate(x))):
            stepper.zero_grad()
            run(block, entering).square().mean().backward()
            stepper.step()
    for layer, twin in zip(sharded, dense, strict=True):
        torch.testing.assert_close(layer.to_dense().weight, twin.weight)
        torch.testing.assert_close(layer.to_dense().bias, twin.bias)


@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_under_autocast_values_and_gradients_have_the_dense_twins_dtypes(n, short, bias):
    mesh, dense, sharded = twins(n, bias, sizes=(16, 24, 8), dtype=torch.float32)
    x = torch.randn(5, 16, requires_grad=True)
    x_ = mesh.replicate(x)
    with torch.autocast("cpu", dtype=short):
        h, h_ = dense[0](x), sharded[0](x_)
        y, y_ = dense[1](torch.tanh(h)), sharded[1](torch.tanh(h_))
    assert (h_.dtype, y_.dtype) == (h.dtype, y.dtype) == (short, short)
    y.float().square().sum().backward()
    y_.float().square().sum().backward()

    def agree(got, want):
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05 * max([0, *want.abs().flatten().tolist()]))

    for rank in range(n):
        agree(y_.shards[rank], y)
        agree(x_.grad.shards[rank], x.grad)
    for layer, twin in zip(sharded, dense, strict=True):
        for name, dim in layer.dims.items():
            want = getattr(twin, name).grad
            pieces = [want] * n if dim is None else want.tensor_split(n, dim)
            for got, piece in zip(layer.held(name).grad.shards, pieces, strict=True):
                agree(got, piece)


def test_along_the_tp_axis_of_a_mesh_with_two():
    mesh = Mesh(dp=2, tp=2, devices=CPU)
    first, second = nn.Linear(5, 7), nn.Linear(7, 4)
    block = ColumnParallelLinear(first, mesh["tp"]), RowParallelLinear(second, mesh["tp"])
    x = torch.randn(6, 5)
    y_ = run(block, mesh["dp"].shard(x, dim=0))
    for rank, piece in enumerate(x.tensor_split(2)[i] for i in (0, 0, 1, 1)):
        torch.testing.assert_close(y_.shards[rank], run((first, second), piece))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_a_fused_projection_is_split_as_three_layers(n):
    mesh, qkv, x = Mesh(n, devices=CPU), nn.Linear(6, 18), torch.randn(5, 6)
    x_, wanted, layers = mesh.replicate(x), qkv(x).chunk(3, dim=-1), []
    for weight, bias in zip(qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True):
        dense = nn.Linear(6, 6)
        dense.weight, dense.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(ColumnParallelLinear(dense, mesh))
    for layer, want in zip(layers, wanted, strict=True):
        torch.testing.assert_close(mesh.all_gather(layer(x_), dim=-1).shards[0], want)
    if n == 2:  # 9 columns each: 6 of q and 3 of k, of which a third is not a third of each
        k_ = ColumnParallelLinear(qkv, mesh)(x_).chunk(3, dim=-1)[1]
        torch.testing.assert_close(k_.shards[0], wanted[0][:, 3:])


def test_a_frozen_layer_stays_frozen():
    dense = nn.Linear(4, 4).requires_grad_(False)
    assert not any(p.requires_grad for p in ColumnParallelLinear(dense, Mesh(2, devices=CPU)).parameters())


def test_a_wrong_input_names_the_shard_and_the_shapes():
    mesh = Mesh(2, devices=CPU)
    layer = RowParallelLinear(nn.Linear(6, 4), mesh)
    with pytest.raises(RuntimeError, match=r"shard 0, linear\(\[2, 6\], \[4, 3\]\)"):
        layer(mesh.replicate(torch.randn(2, 6)))
    with pytest.raises(TypeError, match="mesh.replicate|mesh.shard"):
        layer(torch.randn(2, 3))
