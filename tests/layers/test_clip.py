"""Gradients are clipped by the dense model's norm: on every shard, on every rank, whatever is replicated."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shardlab import Mesh
from shardlab.layers import ColumnParallelLinear, RowParallelLinear, ShardedModule, clip_grad_norm_

CPU = ["cpu"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Scale(ShardedModule):
    """A layer of a learner's own: a replicated scale, and a plain number that it holds beside it."""

    def __init__(self, dense, mesh):
        super().__init__(mesh)
        self.hold("scale", dense)
        self.spare = nn.Parameter(torch.ones(3))

    def forward(self, x_):
        return x_ * self.held("scale")


def blocks(mesh, sizes=(5, 7, 4), bias=True, dtype=torch.float64):
    """A dense block, and the same on shards: cut weights, a cut bias, a replicated bias, a replicated scale."""
    first, second = (nn.Linear(i, o, bias=bias, dtype=dtype) for i, o in (sizes[:2], sizes[1:]))
    scale = nn.Parameter(torch.randn(sizes[2], dtype=dtype))
    sharded = ColumnParallelLinear(first, mesh), nn.Tanh(), RowParallelLinear(second, mesh), Scale(scale, mesh)
    return first, second, scale, nn.Sequential(*sharded)


def gradients(mesh, sizes=(5, 7, 4), bias=True, dtype=torch.float64):
    first, second, scale, sharded = blocks(mesh, sizes, bias, dtype)
    x = torch.randn(3, sizes[0], dtype=dtype)
    (second(torch.tanh(first(x))) * scale).square().sum().backward()
    sharded(mesh.replicate(x)).square().sum().backward()
    return [*first.parameters(), *second.parameters(), scale], (first, second, scale), sharded


@given(
    n=st.integers(1, 8),
    sizes=st.tuples(*[st.integers(1, 9)] * 3),
    bias=st.booleans(),
    norm_type=st.sampled_from([1, 2, 2.0, 3, float("inf"), "inf"]),
    max_norm=st.sampled_from([1e-3, 0.5, 1e9]),
)
@settings(max_examples=60, deadline=None)
def test_the_norm_and_every_gradient_are_the_dense_twins(n, sizes, bias, norm_type, max_norm):
    mesh = Mesh(n, devices=CPU)
    parameters, (first, second, scale), sharded = gradients(mesh, sizes, bias)
    with mesh.record() as traffic:
        norm = clip_grad_norm_(sharded, max_norm, norm_type)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(parameters, max_norm, norm_type))
    assert [(call.name, list(call.shape)) for call in traffic] == [("all_gather", [1, 2])]
    column, _, row, scaled = sharded
    for layer, dense in ((column, first), (row, second)):
        for name, dim in layer.dims.items():
            whole = getattr(dense, name).grad
            wanted = [whole] * n if dim is None else whole.tensor_split(n, dim)
            torch.testing.assert_close(layer.held(name).grad.shards, [*wanted])
    torch.testing.assert_close(scaled.held("scale").grad.shards, [scale.grad] * n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_has_the_dense_ones_dtype(dtype):
    parameters, _, sharded = gradients(Mesh(3, devices=CPU), dtype=dtype)
    norm = clip_grad_norm_(sharded, 1e9)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(parameters, 1e9), rtol=0.05, atol=0)
    assert norm.dtype == dtype


def test_what_torch_s_own_gives_is_another_norm():
    """Why there is a function of ours. (When this fails, torch has learned something.)"""
    parameters, _, sharded = gradients(Mesh(3, devices=CPU))
    assert nn.utils.get_total_norm([p.grad for p in sharded.parameters() if p.grad is not None]) > 1.01 * (
        nn.utils.get_total_norm([p.grad for p in parameters])
    )


def test_bare_shards_are_cut_or_replicated_as_they_are_named():
    mesh = Mesh(3, devices=CPU)
    w, b = torch.randn(4, 7, requires_grad=True), torch.randn(4, 1, requires_grad=True)
    w_, b_ = mesh.shard(w.detach().requires_grad_(), dim=1), mesh.replicate(b.detach().requires_grad_())
    (w.square().sum() + (b * b).sum()).backward()
    ((w_ * w_).sum() + (b_ * b_).sum()).backward()
    norm = clip_grad_norm_([], 1.0, cut=[w_], replicated=[b_])
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_([w, b], 1.0))
    torch.testing.assert_close([*w_.grad.shards, *b_.grad.shards], [*w.grad.tensor_split(3, 1), *[b.grad] * 3])


def test_a_mixture_of_layers_bare_shards_and_plain_modules():
    mesh = Mesh(2, devices=CPU)
    parameters, _, sharded = gradients(mesh)
    w, plain = torch.full((3, 4), 2.0, dtype=torch.float64), nn.Linear(3, 2, dtype=torch.float64)
    w_ = mesh.shard(w.clone().requires_grad_(), dim=0)
    w_.square().sum().backward()
    plain(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    dense = [w.requires_grad_(), *(parameter.detach().clone() for parameter in plain.parameters())]
    w.grad = 2 * w.detach()
    for mine, parameter in zip(dense[1:], plain.parameters(), strict=True):
        mine.grad = parameter.grad.clone()
    norm = clip_grad_norm_([*sharded, plain, sharded[0]], 0.5, cut=[w_])
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_([*parameters, *dense], 0.5))
    torch.testing.assert_close([p.grad for p in plain.parameters()], [mine.grad for mine in dense[1:]])
    torch.testing.assert_close(torch.cat(w_.grad.shards), w.grad)


def test_plain_modules_alone_are_torchs_own():
    plain = nn.Linear(3, 2)
    plain(torch.ones(1, 3)).sum().backward()
    wanted = nn.utils.get_total_norm([p.grad for p in plain.parameters()])
    assert torch.equal(clip_grad_norm_(plain, 1e9), wanted)


def test_tied_parameters_count_and_are_clipped_once():
    mesh = Mesh(2, devices=CPU)
    one, other = (ColumnParallelLinear(nn.Linear(3, 4, bias=False), mesh) for _ in range(2))
    for name, parameter in one.named_parameters():
        other.register_parameter(name, parameter)
    one(mesh.replicate(torch.ones(1, 3))).sum().backward()
    before = one.weight.grad.clone()
    norm = clip_grad_norm_([one, other], 1.0)
    torch.testing.assert_close(norm, torch.tensor(12.0).sqrt())
    torch.testing.assert_close(one.weight.grad.shards, (before / (norm + 1e-6)).shards)
    plain, twin = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
    twin.weight = plain.weight
    plain(torch.ones(1, 3)).sum().backward()
    norm = clip_grad_norm_([one, plain, twin], 1.0)
    torch.testing.assert_close(norm, torch.tensor(1.0 + 12.0).sqrt())
    torch.testing.assert_close(plain.weight.grad, torch.ones(4, 3) / (norm + 1e-6))


def test_along_the_tp_axis_each_group_has_the_dense_norm():
    mesh = Mesh(dp=2, tp=2, devices=CPU)
    parameters, _, sharded = gradients(mesh["tp"])
    with mesh.record() as traffic:
        norm = clip_grad_norm_(sharded, 0.5)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(parameters, 0.5))
    assert [call.axis for call in traffic] == ["tp"]
    torch.testing.assert_close(sharded[3].held("scale").grad.shards, [parameters[-1].grad] * 4)


def test_layers_along_two_axes_have_one_norm():
    mesh = Mesh(dp=2, tp=2, devices=CPU)
    first, second, _, _ = blocks(mesh, (5, 5, 5))
    block = nn.Sequential(ColumnParallelLinear(first, mesh["tp"]), ColumnParallelLinear(second, mesh["dp"]))
    x = torch.ones(2, 5, dtype=torch.float64)
    for layer, dense in zip(block, (first, second), strict=True):
        dense(x).square().sum().backward()
        layer(mesh.replicate(x)).square().sum().backward()
    with mesh.record() as traffic:
        norm = clip_grad_norm_(block, 1.0)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_([*first.parameters(), *second.parameters()], 1.0))
    assert [call.axis for call in traffic] == ["tp", "dp"]
    torch.testing.assert_close(block[1].weight.grad.shards[2], second.weight.grad[3:])


def test_without_a_gradient_the_norm_is_nought():
    mesh = Mesh(3, devices=CPU)
    assert clip_grad_norm_(blocks(mesh)[3], 1.0) == 0
    assert clip_grad_norm_([], 1.0) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_finite_on_every_shard(value):
    _, _, sharded = gradients(Mesh(3, devices=CPU))
    sharded[0].weight_1.grad[0, 0] = value
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_(sharded, 1.0, error_if_nonfinite=True)
    assert not clip_grad_norm_(sharded, 1.0).isfinite()


def test_a_replicated_parameter_whose_gradients_differ_is_named():
    mesh = Mesh(3, devices=CPU)
    scale_ = Scale(torch.ones(7), mesh)
    scale_(mesh.shard(torch.arange(21.0).view(3, 7), dim=0)).sum().backward()  # its own rows for each shard, and no f
    with pytest.raises(ValueError, match=r"tp=3.*are \[9.539, 26.98, 45.29\].*mesh.copy.*missing"):
        clip_grad_norm_(scale_, 1.0)
    again_ = Scale(torch.ones(7), mesh)
    rows_ = mesh.shard(torch.arange(21.0).view(3, 7), dim=0)
    (rows_ * mesh.copy(again_.held("scale"))).sum().backward()  # with f
    torch.testing.assert_close(clip_grad_norm_(again_, 1.0), torch.arange(21.0).view(3, 7).sum(0).norm())


def test_what_does_not_say_how_it_lives_is_refused():
    mesh = Mesh(2, devices=CPU)
    layer, w_ = RowParallelLinear(nn.Linear(4, 3), mesh), mesh.replicate(torch.ones(3))
    for wrong in (layer.parameters(), list(layer.parameters()), [w_], [layer, w_], layer.weight_0):
        with pytest.raises(TypeError, match=r"takes modules.*clip_grad_norm_\(layer, …\).*cut=\[w_\]"):
            clip_grad_norm_(wrong, 1.0)
    with pytest.raises(ValueError, match="norm_type=0.0: pieces"):
        clip_grad_norm_(layer, 1.0, norm_type=0)
    with pytest.raises(ValueError, match=r"Mesh\(dp=2, tp=2\) does not say.*ShardedModule\(mesh\[axis\]\)"):
        clip_grad_norm_([], 1.0, cut=[Mesh(dp=2, tp=2, devices=CPU).replicate(torch.ones(1))])
    with pytest.raises(ValueError, match=r"on Mesh\(tp=3\) and on Mesh\(tp=2\)"):
        clip_grad_norm_([layer, RowParallelLinear(nn.Linear(4, 3), Mesh(3, devices=CPU))], 1.0)
