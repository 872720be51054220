"""Attention by heads, against the dense twin, and the dense twin against torch's own attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from twins import assert_twins, refilled

from shardlab import Mesh
from shardlab.layers import Attention, ParallelAttention

CPU = ["cpu"]


@given(
    n=st.integers(1, 8), kv_heads=st.integers(1, 4), group=st.integers(1, 3), size=st.sampled_from([2, 4]),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5)), bias=st.booleans(), theta=st.sampled_from([None, 100.0]),
    eps=st.sampled_from([None, 1e-6]),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_values_and_every_gradient_are_the_dense_twins(n, kv_heads, group, size, shape, bias, theta, eps):
    mesh = Mesh(n, devices=CPU)
    dense = refilled(Attention(6, kv_heads * group, kv_heads, size, bias, theta, eps))
    assert_twins(dense, ParallelAttention(dense, mesh), mesh, torch.randn(*shape, 6, dtype=torch.float64))


def test_the_dense_twin_is_torchs_own_attention():
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3, bias=True).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in (ours.q_proj, ours.k_proj, ours.v_proj)]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (ours.q_proj, ours.k_proj, ours.v_proj)]))
        theirs.out_proj.load_state_dict(ours.o_proj.state_dict())
    x, mask = torch.randn(2, 5, 12, dtype=torch.float64), nn.Transformer.generate_square_subsequent_mask(5).double()
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0])


@pytest.mark.parametrize(
    "n, cut, held, backward",
    [
        (2, 0, [2, 4, 6], [[5, 6]]),  # a kv head on each of 2 shards
        (4, None, [2, 4, 6], [[5, 6], [2, 4, 6], [2, 4, 6]]),  # 2 kv heads, 4 shards: both everywhere
        (3, None, [2, 4, 6], [[5, 6], [2, 4, 6], [2, 4, 6]]),  # they do not divide
    ],
)
def test_kv_heads_that_do_not_divide_are_replicated_and_their_gradients_reduced(n, cut, held, backward):
    mesh, dense = Mesh(n, devices=CPU), Attention(6, 4, 2, size=4)
    layer, x_ = ParallelAttention(dense, mesh), mesh.replicate(torch.randn(5, 6, requires_grad=True))
    assert layer.dims == {"q_proj": 0, "k_proj": cut, "v_proj": cut, "o_proj": 1}
    assert list(layer.held("k_proj").shards[0].shape) == ([1, 4, 6] if cut == 0 else held)
    with mesh.record() as traffic:
        layer(x_).sum().backward()
    shapes = {phase: [list(call.shape) for call in traffic if call.phase == phase] for phase in ("forward", "backward")}
    assert shapes["forward"] == [[5, 6]] and sorted(shapes["backward"]) == sorted(backward)
    assert {call.name for call in traffic} == {"all_reduce"}


def test_each_shard_computes_only_the_kv_heads_that_its_own_heads_need():
    layer = ParallelAttention(Attention(6, 6, 2, size=2), Mesh(4, devices=CPU))  # heads 2, 2, 1, 1 on the shards
    assert [kv.tolist() for kv in layer.kv_.shards] == [[0], [0, 1], [1], [1]]
    assert [place.tolist() for place in layer.place_.shards] == [[0, 0], [0, 1], [0], [0]]


def test_a_head_attends_to_what_came_before_it_and_no_further():
    mesh, dense = Mesh(2, devices=CPU), Attention(6, 2)
    layer, x = ParallelAttention(dense, mesh), torch.randn(5, 6)
    later = x.clone()
    later[3:] += 1
    one, other = (layer(mesh.replicate(each)).shards[1] for each in (x, later))
    torch.testing.assert_close(one[:3], other[:3])
    assert not torch.allclose(one[3:], other[3:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_runs_in_other_dtypes(dtype):
    mesh, dense = Mesh(3, devices=CPU), Attention(8, 4, 2, theta=10.0).to(dtype)
    x = torch.randn(2, 5, 8, dtype=dtype)
    got = ParallelAttention(dense, mesh)(mesh.replicate(x)).shards[0]
    torch.testing.assert_close(got, dense(x), rtol=0.05, atol=0.02 if dtype == torch.bfloat16 else 1e-5)


def test_heads_that_do_not_share_evenly_are_refused():
    with pytest.raises(ValueError, match="6 heads do not share 4 kv heads evenly"):
        Attention(12, 6, 4)
