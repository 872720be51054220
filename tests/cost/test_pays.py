"""When a layer pays on t shards: the formulas against the two times that they are about, and against a real layer."""

import json
from math import inf
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shardlab import Mesh
from shardlab.cost import (
    ALL_REDUCES,
    MODELS,
    crossover,
    layer_time,
    layer_weights,
    measured_splits,
    most_shards,
    parameters,
    products_time,
    ring_time,
    step_latency,
)
from shardlab.layers import ParallelTransformerLayer, TransformerLayer

H100, WIRE = (794.5e12, 3.35e12), (3e-6, 1 / 450e9)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model.experts])
def test_the_weights_of_its_layers_are_a_model_but_for_embedding_head_and_norms(name):
    model = MODELS[name]
    norms = 2 * model.h * model.layers
    outside = (1 if model.tied else 2) * model.vocab * model.h + model.h
    assert model.layers * layer_weights(model) + norms + outside == parameters(model)


def test_a_layer_of_experts_has_the_weights_that_a_token_meets():
    mixtral = MODELS["Mixtral 8x7B"]
    one_expert = 3 * mixtral.h * mixtral.ffn
    attention = 2 * mixtral.h**2 + 2 * mixtral.h * 8 * 128
    assert layer_weights(mixtral) == attention + 2 * one_expert + 8 * mixtral.h  # and the router


@pytest.mark.parametrize("tokens", [1, 200, 8192])
@pytest.mark.parametrize("t", [1, 2, 8])
def test_a_layer_is_its_products_and_two_rings(tokens, t):
    h, ffn = 512, 2048
    shapes = [(h, h)] * 4 + [(h, ffn), (ffn, h)]
    flops, memory = H100
    together = max(
        sum(2 * tokens * k * n for k, n in shapes) / t / flops, sum(2 * k * n for k, n in shapes) / t / memory
    )
    messages = 2 * 2 * (t - 1)
    wire = messages * (WIRE[0] + tokens * h * 2 / t * WIRE[1])
    assert layer_time(12 * h**2, h, tokens, t, *H100, *WIRE) == pytest.approx((together, wire))


def test_few_tokens_wait_for_memory_and_many_for_flops():
    ridge = H100[0] / H100[1]
    assert products_time(1000, 1, *H100) == products_time(1000, ridge / 2, *H100) == 2000 / H100[1]
    assert products_time(1000, 2 * ridge, *H100) == pytest.approx(2 * products_time(1000, ridge, *H100))


@pytest.mark.parametrize("k, n, t", [(4096, 4096, 8), (28672, 8192, 2), (3600, 100, 64)])
def test_at_the_crossover_both_take_the_same_time(k, n, t):
    m, flops = crossover(k, n, t, H100[0], *WIRE), H100[0]
    one = 2 * m * k * n / flops
    assert one / t + ring_time(t, 2 * m * n, *WIRE) == pytest.approx(one)
    more = 2 * one / t + ring_time(t, 4 * m * n, *WIRE)
    assert more < 2 * one


def test_where_the_inner_dim_is_too_narrow_there_is_no_crossover():
    least = 2 * H100[0] * WIRE[1]
    assert crossover(0.999 * least, 4096, 8, H100[0], *WIRE) == inf > crossover(1.001 * least, 4096, 8, H100[0], *WIRE)
    for m in (1, 1e3, 1e6, 1e9):
        one = 2 * m * 0.999 * least * 4096 / H100[0]
        assert one / 8 + ring_time(8, 2 * m * 4096, *WIRE) > one


def test_the_limit_is_where_the_book_has_it():
    """T_math = 4BDF/(tC), T_comms = 4BD/W: equal at t = F · W/C, whatever B and D are."""
    t = most_shards(28672, 990e12, 400e9)
    assert 4 * 7 * 11 * 28672 / (t * 990e12) == pytest.approx(4 * 7 * 11 / 400e9)
    assert round(28672 / t) == 2475


def test_latency_and_bandwidth_are_found_again():
    rows = [row for row in ALL_REDUCES if row.what == "8 H200"]
    alpha, beta = step_latency(rows)
    for row in rows:
        seen = 1.75 * row.bytes / (row.busbw_GB_per_s * 1e9)
        assert ring_time(8, row.bytes, alpha, beta) == pytest.approx(seen, rel=0.22)


def test_a_gpu_that_was_measured_is_read_and_one_that_was_not_is_none(tmp_path):
    assert measured_splits(tmp_path / "none.json") is None
    results, rows = tmp_path / "results-cuda.json", []
    for shards, ratio in ((1, 1.0), (32, 2.03)):
        rows += [{"shards": shards, "way": "whole", "ratio": 1.0}]
        rows += [{"shards": shards, "way": "column, by hand", "ratio": ratio}]
    results.write_text(json.dumps({"sums": {}}))
    assert measured_splits(results) is None
    results.write_text(json.dumps({"splits": {"at": {"device": "a GPU"}, "rows": rows}}))
    assert measured_splits(results) == ("a GPU", {1: 1.0, 32: 2.03})


def test_a_real_layer_has_these_products_and_two_all_reduces():
    """Of our own layer: 2 FLOPs for each token and weight of its products, and all-reduces of [tokens, h]."""
    shape = SimpleNamespace(
        h=64, heads=4, kv_heads=2, head_dim=16, ffn=96, layers=1, experts=0, top=0, kv_rank=0, bias=0
    )
    dense, mesh, tokens = TransformerLayer(64, 96, heads=4, kv_heads=2), Mesh(2), 8
    X = torch.randn(1, tokens, 64)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        dense(X)
    by_op = counted.get_flop_counts()["Global"]
    linear = sum(flops for op, flops in by_op.items() if "mm" in str(op) and "bmm" not in str(op))
    assert linear == 2 * tokens * layer_weights(shape)
    with mesh.record() as traffic:
        ParallelTransformerLayer(dense, mesh)(mesh.replicate(X))
    assert traffic.names == ["all_reduce"] * 2
    seconds = layer_time(layer_weights(shape), 64, 2 * tokens, 2, 1, 1, 0, beta=1)[1]  # 16 bits: half of float32's
    assert traffic.wire == seconds
