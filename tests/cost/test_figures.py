"""The tables of figures, and the formulas of parameters, FLOPs and memory, against what was published."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from shardlab.cost import (
    ALL_REDUCES,
    DEVICES,
    GPTS,
    LINKS,
    MODELS,
    activation_bytes,
    active_parameters,
    forward_flops,
    gpt_flops,
    gpt_parameters,
    kv_bytes,
    layer_flops,
    matmul_flops,
    parameters,
    ring_bytes,
    state_bytes,
    training_days,
    waves,
)

GPT3 = {"h": 12288, "layers": 96, "vocab": 51200, "s": 2048}


# the tables


def test_every_row_has_a_source_and_no_name_stands_twice():
    for rows, count in ((MODELS, 15), (GPTS, 8), (DEVICES, 13), (LINKS, 16)):
        assert len(rows) == count
        assert all(name == row.name and len(row.source) > 8 for name, row in rows.items())
    assert all(len(row.source) > 8 for row in ALL_REDUCES)


def test_devices_and_links_are_possible():
    for device in DEVICES.values():
        assert device.link in LINKS
        assert device.reached_tflops is None or 0.5 < device.reached_tflops / device.tflops < 1
        assert 100 < device.tflops < 3000 and 10 < device.memory_GB < 300 and 0.5 < device.bandwidth_TB < 10
    for link in LINKS.values():
        assert link.to_one_peer_GB_per_s <= link.GB_per_s


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_shape_gives_the_parameters_that_its_model_is_known_to_have(model):
    digits = 2 if model.billions == round(model.billions, 2) != round(model.billions, 1) else 1
    assert round(parameters(model) / 1e9, digits) == pytest.approx(model.billions, abs=0.051 if digits == 1 else 0)
    assert active_parameters(model) / 1e9 == pytest.approx(model.active_billions, abs=0.05)
    assert kv_bytes(model) / 1024 == pytest.approx(model.kv_KiB, abs=0.05)


@pytest.mark.parametrize("model", GPTS.values(), ids=list(GPTS))
def test_a_gpt_has_the_parameters_of_its_name(model):
    count = gpt_parameters(model.h, model.layers, model.vocab, model.s) / 1e9
    assert count == pytest.approx(model.billions, rel=0.012)


# parameters


@dataclasses.dataclass
class Shape:
    h: int = 12
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 5
    ffn: int = 7
    vocab: int = 11
    tied: int = 0
    bias: int = 0
    experts: int = 0
    top: int = 0
    shared: int = 0
    dense_layers: int = 0
    dense_ffn: int = 0
    window_layers: int = 0
    window: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def linear(*sizes, bias=False):
    return nn.Linear(*sizes, bias=bias)


@pytest.mark.parametrize("tied", [0, 1])
def test_parameters_are_those_of_a_model_that_is_built(tied):
    q, kv, o = linear(12, 20), linear(12, 10), linear(20, 12)
    layer = [q, kv, kv, o, *[linear(12, 7)] * 2, linear(7, 12), *[nn.RMSNorm(12)] * 2]
    ends = [nn.Embedding(11, 12), nn.RMSNorm(12)] + ([] if tied else [linear(12, 11)])
    assert parameters(Shape(tied=tied)) == active_parameters(Shape(tied=tied)) == count(*ends, *layer * 2)


def test_experts():
    shape = Shape(experts=8, top=3, shared=1, dense_layers=1, dense_ffn=9)
    without = parameters(Shape(ffn=0))
    expert, router, dense = 3 * 12 * 7, 8 * 12, 3 * 12 * 9
    assert parameters(shape) - without == 9 * expert + router + dense
    assert active_parameters(shape) - without == 4 * expert + router + dense


def test_biases():
    layer = count(linear(12, 20, bias=True), *[linear(12, 10, bias=True)] * 2, linear(20, 12, bias=True))
    layer += 4 + 2 * 12  # sinks, norms
    mlp = count(*[linear(12, 7, bias=True)] * 2, linear(7, 12, bias=True))
    shape = Shape(bias=1, experts=3, top=1, layers=1)
    assert parameters(shape) == 2 * 11 * 12 + 12 + layer + 3 * mlp + count(linear(12, 3, bias=True))


def test_latent_attention():
    shape = Shape(q_rank=6, kv_rank=8, rope_dim=2, ffn=0, layers=1)
    queries = [linear(12, 6), nn.RMSNorm(6), linear(6, 4 * (5 + 2))]
    rest = [linear(12, 8 + 2), nn.RMSNorm(8), linear(8, 4 * (5 + 5)), linear(20, 12), *[nn.RMSNorm(12)] * 2]
    assert parameters(shape) == 2 * 11 * 12 + 12 + count(*queries, *rest)


def test_eq_2_is_a_gpt_that_is_built():
    h, layers, vocab, s = 16, 3, 50, 20
    layer = [linear(h, 3 * h, bias=True), linear(h, h, bias=True), linear(h, 4 * h, bias=True)]
    layer += [linear(4 * h, h, bias=True), *[nn.LayerNorm(h)] * 2]
    built = count(nn.Embedding(vocab, h), nn.Embedding(s, h), *layer * layers)
    assert gpt_parameters(h, layers, vocab, s) == pytest.approx(built)


def test_gpt_3_and_the_8_billion():
    assert gpt_parameters(**GPT3) / 1e9 == pytest.approx(174.6, abs=0.05)
    assert gpt_parameters(h=3072, layers=72, vocab=51200, s=1024) / 1e9 == pytest.approx(8.3, abs=0.05)


# FLOPs


def test_a_layer_is_its_products():
    s, b, h = 6, 2, 8
    projections = 4 * matmul_flops(b * s, h, h) + 2 * matmul_flops(b * s, h, 4 * h)
    attention = b * (matmul_flops(s, h, s) + matmul_flops(s, s, h))
    assert layer_flops(s, b, h) == projections + attention


def test_eq_3_is_four_forwards_of_the_layers_and_three_of_the_head():
    batch, s, layers, h, vocab = 4, 32, 3, 16, 50
    head = matmul_flops(batch * s, h, vocab)
    want = 4 * layers * layer_flops(s, batch, h) + 3 * head
    assert gpt_flops(batch, s, layers, h, vocab) == pytest.approx(want)


def test_training_days():
    assert training_days(300e9, gpt_parameters(**GPT3), 1024, 140e12) == pytest.approx(34, abs=0.5)
    trillion = gpt_parameters(h=25600, layers=128, vocab=51200, s=2048)
    assert training_days(450e9, trillion, 3072, 163e12) == pytest.approx(84, abs=0.5)


def test_forward_flops_are_the_products_of_a_model():
    shape, tokens, context = Shape(layers=1), 3, 9
    weights = 12 * 20 + 2 * 12 * 10 + 20 * 12 + 3 * 12 * 7 + 12 * 11
    norms = 3 * 12  # are counted like weights
    attention = 4 * (matmul_flops(tokens, 5, context) + matmul_flops(tokens, context, 5))
    assert forward_flops(shape, tokens, context) == 2 * tokens * (weights + norms) + attention
    rotated = matmul_flops(tokens, 2, context) * 4  # of latent attention: 2 numbers more in a query, none in a value
    latent = Shape(layers=1, kv_rank=1, rope_dim=2)
    at_once = forward_flops(latent, tokens, 0)
    assert forward_flops(latent, tokens, context) - at_once == attention + rotated
    tied = Shape(layers=1, tied=1)
    assert forward_flops(tied, tokens, context) == forward_flops(shape, tokens, context)


@pytest.mark.parametrize(
    ("m", "n", "count", "share"),
    [
        (8192, 8192, 16, 2048 / 2112),
        (8192, 256, 1, 64 / 132),
        (128, 256 * 132, 1, 1.0),
        (129, 256 * 66 + 1, 2, 134 / 264),
    ],
)
def test_waves(m, n, count, share):
    assert waves(m, n, multiprocessors=132) == (count, pytest.approx(share))


# memory


def test_activations_of_the_table():
    """In units of sbh, of a shape whose 5as/h is 40; 42, 26 and 18 is what tensor parallelism over 2, 4 and 8 keeps."""
    s, b, h, a = 1024, 3, 2048, 16
    unit = s * b * h

    def kept(**how):
        return activation_bytes(s, b, h, a, **how) / unit

    assert kept() == 34 + 40
    assert [kept(t=t) for t in (2, 4, 8)] == [42, 26, 18]
    assert [kept(t=t, sequence=True) for t in (2, 4, 8)] == [37, 18.5, 9.25]
    assert [kept(t=t, recompute="selective") for t in (2, 4)] == [22, 16]
    assert [kept(t=t, recompute="selective", sequence=True) for t in (2, 4)] == [17, 8.5]
    assert kept(t=8, recompute="full") == kept(recompute="full", sequence=True) == 2
    with pytest.raises(ValueError, match="None, 'selective' or 'full', not True"):
        kept(recompute=True)


@pytest.mark.parametrize(("name", "scores", "saved"), [("GPT-3 175B", 80, 0.70), ("MT-NLG 530B", 64, 0.65)])
def test_what_the_scores_take(name, scores, saved):
    model = GPTS[name]
    whole, rest = (
        activation_bytes(model.s, 1, model.h, model.heads, recompute=how) / (model.s * model.h)
        for how in (None, "selective")
    )
    assert whole - rest == scores and (whole - rest) / whole == pytest.approx(saved, abs=0.005)


def test_adam_in_mixed_precision_keeps_16_bytes_a_parameter():
    assert state_bytes(10**9) == 16e9
    weights = nn.Linear(10, 10, bias=False)
    step = torch.optim.Adam(weights.parameters())
    weights(torch.ones(10)).sum().backward()
    step.step()
    kept = [value for value in step.state[weights.weight].values() if value.numel() > 1]
    assert state_bytes(100, parameter=4, gradient=4, optimizer=8) == sum(
        tensor.nbytes for tensor in (weights.weight, weights.weight.grad, *kept)
    )


def test_the_cache_of_a_window_and_of_latent_attention():
    windows = MODELS["gpt-oss-20b"]
    half = 12 * 2 * 8 * 64 * 2
    assert kv_bytes(windows, 1000) == half * (1000 + 128) and kv_bytes(windows, 100) == 2 * half * 100
    latent = MODELS["DeepSeek-V3"]
    plain = SimpleNamespace(**vars(latent) | {"kv_rank": 0})
    assert (kv_bytes(latent) / 1024, kv_bytes(plain) / 1024) == (pytest.approx(68.6, abs=0.05), 3904)
    assert kv_bytes(latent, tokens=7, value=1) == 7 * kv_bytes(latent) / 2


def test_four_all_reduces_a_layer():
    """8bsh (t-1)/t numbers a device, layer and microbatch (arXiv 2104.04473, section 3.2)."""
    s, b, h, t = 2048, 2, 12288, 8
    assert 4 * ring_bytes("all_reduce", 2 * s * b * h, t) / 2 == 8 * b * s * h * (t - 1) / t
