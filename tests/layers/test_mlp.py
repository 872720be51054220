"""The MLPs and their fused weights, against the dense twins."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import relu
from twins import assert_twins, refilled

from shardlab import Mesh
from shardlab.layers import MLP, ColumnParallelLinear, ParallelMLP, ParallelSwiGLU, SwiGLU, fused

CPU = ["cpu"]
KINDS = {"mlp": (MLP, ParallelMLP), "swiglu": (SwiGLU, ParallelSwiGLU)}


@given(
    kind=st.sampled_from([*KINDS]), n=st.integers(1, 8), width=st.integers(1, 9), hidden=st.integers(1, 12),
    lead=st.lists(st.integers(1, 3), max_size=2), bias=st.booleans(),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_values_and_every_gradient_are_the_dense_twins(kind, n, width, hidden, lead, bias):
    (twin, parallel), mesh = KINDS[kind], Mesh(n, devices=CPU)
    dense = refilled(twin(width, hidden, bias))
    assert_twins(dense, parallel(dense, mesh), mesh, torch.randn(*lead, width, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 3, 4])
def test_one_all_reduce_forward_and_one_backward(kind, n):
    (twin, parallel), mesh = KINDS[kind], Mesh(n, devices=CPU)
    x_ = mesh.replicate(torch.randn(3, 6, requires_grad=True))
    layer = parallel(twin(6, 12), mesh)
    with mesh.record() as traffic:
        layer(x_).sum().backward()
    said = [(call.phase, call.name, list(call.shape), call.payload) for call in traffic]
    assert said == [("forward", "all_reduce", [3, 6], 72), ("backward", "all_reduce", [3, 6], 72)]


def test_another_activation_stays_and_comes_back():
    dense = refilled(MLP(4, 6, f=relu))
    layer = ParallelMLP(dense, Mesh(3, devices=CPU)).eval()
    assert layer.to_dense().f is relu and not layer.to_dense().training
    assert_twins(dense, layer, layer.fc1.mesh, torch.randn(2, 4, dtype=torch.float64))


LAYOUTS = {
    "gate, up": (fused.gate_up(6), 12),
    "gate, up interleaved": (fused.gate_up(6, interleaved=True), 12),
    "by kind": (fused.qkv(6, 2, 2, "by kind"), 20),
    "by head": (fused.qkv(3, 3, 2, "by head"), 18),
    "interleaved": (fused.qkv(6, 2, 2, "interleaved"), 20),
}


@pytest.mark.parametrize("layout, rows", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
def test_what_was_taken_apart_goes_together_again(layout, rows, bias):
    dense, x = nn.Linear(4, rows, bias), torch.randn(3, 4)
    parts = fused.split(dense, layout)
    for part, own in zip(parts, layout, strict=True):
        torch.testing.assert_close(part(x), dense(x)[:, own])
    again = fused.fuse(parts, layout)
    assert torch.equal(again.weight, dense.weight) and (not bias or torch.equal(again.bias, dense.bias))


def test_the_layouts_are_those_of_the_reshapes_in_the_wild():
    rows = torch.arange(24)
    q, k, v = fused.qkv(4, 4, 2, "by head")  # BLOOM: view(…, heads, 3, size)
    views = rows.view(4, 3, 2)
    assert [part.tolist() for part in (q, k, v)] == [views[:, i].flatten().tolist() for i in range(3)]
    q, k, v = fused.qkv(8, 2, 1, "interleaved")  # Megatron-LM: view(…, kv_heads, (heads/kv_heads + 2) · size)
    q_, k_, v_ = rows[:12].view(2, 6).split([4, 1, 1], dim=1)
    assert [part.tolist() for part in (q, k, v)] == [part.flatten().tolist() for part in (q_, k_, v_)]
    gate, up = fused.gate_up(12, interleaved=True)  # gpt-oss: x[..., ::2]
    assert gate.tolist() == rows[::2].tolist() and up.tolist() == rows[1::2].tolist()


def test_a_fused_swiglu_cut_as_it_lies_is_wrong_and_cut_by_kind_right():
    torch.manual_seed(0)
    width, hidden, mesh, x = 8, 16, Mesh(2, devices=CPU), torch.randn(5, 8)
    dense, gate_up = SwiGLU(width, hidden), nn.Linear(width, 2 * hidden, bias=False)
    dense.gate_proj, dense.up_proj = fused.split(gate_up, fused.gate_up(hidden))
    y = dense(x)
    fused_ = ColumnParallelLinear(gate_up, mesh)(mesh.replicate(x))
    gate_, up_ = fused_.chunk(2, dim=-1)
    W_ = mesh.shard(dense.down_proj.weight.detach(), dim=1)
    naive = mesh.all_reduce(nn.functional.linear(nn.functional.silu(gate_) * up_, W_)).shards[0]
    assert (naive - y).norm() / y.norm() > 0.5
    torch.testing.assert_close(ParallelSwiGLU(dense, mesh)(mesh.replicate(x)).shards[0], y)


@pytest.mark.parametrize(
    "wrong, told",
    [
        (lambda: fused.qkv(6, 4, 2, "by kind"), "6 heads do not share 4 kv heads evenly"),
        (lambda: fused.qkv(6, 2, 2, "by head"), 'say "interleaved"'),
        (lambda: fused.qkv(6, 2, 2, "kind"), "not 'kind'"),
        (lambda: fused.split(nn.Linear(4, 10), fused.gate_up(6)), "12 rows, and the fused weight has 10"),
        (lambda: ParallelSwiGLU(MLP(4, 6), Mesh(2, devices=CPU)), "gate_proj"),
    ],
)
def test_what_does_not_fit_is_told(wrong, told):
    with pytest.raises((ValueError, AttributeError), match=told):
        wrong()
