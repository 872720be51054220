"""The GPT layer whose memory is counted: the dense twin's values and gradients, and the bytes that it keeps."""

import pytest
import torch
from test_sequence import assert_cut_twins
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from twins import assert_twins, refilled

from shardlab import Mesh
from shardlab.cost import MODELS, activation_bytes, gated_activation_bytes
from shardlab.layers import GPTLayer, ParallelGPTLayer, SequenceGPTLayer, SwiGLU, gpt

CPU = ["cpu"]
RECOMPUTE = [None, "selective", "full"]


def kept(run, parameters):
    """The bytes that run() keeps for backward: of storages, each once, and none that is a parameter's."""
    own, found = {parameter.untyped_storage().data_ptr() for parameter in parameters}, {}

    def note(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        y = run()
    assert y is not None  # which holds all that was kept, so that no two had one address
    return sum(size for address, size in found.items() if address not in own)


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_values_and_every_gradient_are_the_dense_twins(n, recompute):
    torch.manual_seed(n)
    dense, mesh, x = refilled(GPTLayer(8, 4)), Mesh(n, devices=CPU), torch.randn(2, 5, 8, dtype=torch.float64)
    layer = ParallelGPTLayer(dense, mesh, p=0.0, recompute=recompute)
    assert_twins(dense, layer, mesh, x, twice=False)
    dense.zero_grad()
    assert_cut_twins(dense, SequenceGPTLayer(dense, mesh, p=0.0, recompute=recompute), mesh, x.detach())
    torch.testing.assert_close(layer.to_dense().state_dict(), dense.state_dict())
    layer.p = layer.attention.p = 0.5
    torch.testing.assert_close(layer.eval()(mesh.replicate(x)).shards[-1], dense(x))


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_with_dropout_it_is_the_same_for_every_number_of_shards(recompute):
    torch.manual_seed(0)
    dense, x, dy = refilled(GPTLayer(8, 4)), *torch.randn(2, 1, 6, 8, dtype=torch.float64)

    def ran(kind, n):
        mesh = Mesh(n, devices=CPU)
        cut = kind is SequenceGPTLayer
        x_, dy_ = (mesh.shard(t, -2) if cut else mesh.replicate(t) for t in (x.clone().requires_grad_(), dy))
        y_ = kind(dense, mesh, p=0.3, recompute=recompute)(x_, seed=7)
        y_.backward(dy_)
        return [torch.cat(v_.shards, -2) if cut else v_.shards[-1] for v_ in (y_.detach(), x_.grad)]

    want = ran(ParallelGPTLayer, 1)
    assert not torch.allclose(want[0], dense(x))
    for kind, n in ((ParallelGPTLayer, 4), (SequenceGPTLayer, 2), (SequenceGPTLayer, 4)):
        torch.testing.assert_close(ran(kind, n), want)


def test_each_dropout_of_each_call_has_a_mask_of_its_own(monkeypatch):
    seeds, dropout = [], gpt.dropout

    def noting(mesh, x_, p, seed, dim):
        seeds.append(seed)
        return dropout(mesh, x_, p, seed, dim)

    monkeypatch.setattr(gpt, "dropout", noting)
    mesh = Mesh(2, devices=CPU)
    layer = ParallelGPTLayer(GPTLayer(8, 4), mesh, p=0.3)
    for seed in range(3):
        layer(mesh.replicate(torch.randn(2, 5, 8)), seed)
    assert len(seeds) == len(set(seeds)) == 9


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_it_keeps_what_the_formula_says(n, recompute):
    s, b, h, a = 48, 2, 64, 4
    dense, mesh, X = GPTLayer(h, a).bfloat16(), Mesh(n, devices=CPU), torch.randn(b, s, h).bfloat16().requires_grad_()
    for kind in (ParallelGPTLayer, SequenceGPTLayer):
        layer, cut = kind(dense, mesh, recompute=recompute), kind is SequenceGPTLayer
        x_ = mesh.shard(X, -2) if cut else mesh.replicate(X)
        measured = kept(lambda layer=layer, x_=x_: layer(x_), layer.parameters()) / n
        wanted = activation_bytes(s, b, h, a, n, cut, recompute)
        means = 0 if recompute == "full" else 8 * s * b / (n if cut else 1)  # of the norms: 2 + 2 bytes a token each
        assert measured == pytest.approx(wanted + means, abs=8 * a)  # and which kv head each head takes


def test_a_wrong_word_for_recompute_is_refused():
    with pytest.raises(ValueError, match="not 'some'"):
        ParallelGPTLayer(GPTLayer(8, 4), Mesh(2, devices=CPU), recompute="some")


def test_a_gated_layer_keeps_what_its_formula_counts():
    """Each step of a layer of today keeps what `gated_activation_bytes` has for it; the norm apart, whose kernel on a
    CPU keeps more than its input."""
    s, b, h, a, k, d, ffn = 32, 2, 64, 4, 2, 16, 96
    x = torch.randn(b, s, h).bfloat16().requires_grad_()
    q_proj, kv_proj, o_proj, mlp = (
        part.bfloat16() for part in (nn.Linear(h, a * d), nn.Linear(h, 2 * k * d), nn.Linear(a * d, h), SwiGLU(h, ffn))
    )

    def attention():
        q, kv = q_proj(x), kv_proj(x)
        q, (key, v) = q.view(b, s, a, d).transpose(1, 2), kv.view(b, s, 2, k, d).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, key, v, is_causal=True, enable_gqa=True)
        return o_proj(y.transpose(1, 2).flatten(-2))

    parts = [q_proj, kv_proj, o_proj, mlp]
    measured = kept(attention, [p for part in parts for p in part.parameters()])
    measured += kept(lambda: mlp(x), mlp.parameters())
    norms = 2 * 2 * s * b * h  # the inputs of both, in 16 bits
    size = {"h": h, "heads": a, "kv_heads": k, "head_dim": d, "ffn": ffn, "experts": 0}
    model = type("Model", (), size)
    assert measured + norms == pytest.approx(gated_activation_bytes(model, s, b), rel=0.02)
    assert gated_activation_bytes(model, s, b, t=2, sequence=True) == gated_activation_bytes(model, s, b) / 2
    four = 2 * (4 * h + 2 * d * (a / 4 + 1) + 4 * ffn / 4) + 4 * a / 4  # each of 4: a q head, and copies of k and v
    assert gated_activation_bytes(model, s, b, t=4) == s * b * four
    assert gated_activation_bytes(model, s, b, recompute="full") == 2 * s * b * h
    with pytest.raises(ValueError, match="has experts"):
        gated_activation_bytes(MODELS["Mixtral 8x7B"], s)
