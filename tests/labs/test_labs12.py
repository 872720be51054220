"""Lab 12: the time of a layer by the number of shards, and what its picture says of it."""

from itertools import product

import pytest

from shardlab import labs
from shardlab.cost import DEVICES, LINKS, MODELS, layer_weights, ring_time
from shardlab.labs.lab12_pays import ALPHA, DENSE, SHARDS, TOKENS, draw_pays, pays_result


def test_its_times_are_products_and_two_all_reduces():
    for model, device, link in product(("Llama 3.1 8B", "Qwen3 32B"), ("H100 SXM", "TPU v5p"), ("NVLink 4", "PCIe 4")):
        shape, chip, beta = MODELS[model], DEVICES[device], 1 / (LINKS[link].GB_per_s * 1e9)
        for batch in TOKENS:
            for t, time in pays_result(8, batch, model, device, link).times.items():
                if shape.heads % t:
                    assert time is None
                    continue
                flops = 2 * batch * layer_weights(shape) / ((chip.reached_tflops or chip.tflops) * 1e12)
                reading = 2 * layer_weights(shape) / (chip.bandwidth_TB * 1e12)
                wire = 2 * ring_time(t, 2 * batch * shape.h, ALPHA, beta)
                assert time == pytest.approx((max(flops, reading) / t, wire))


def test_the_best_is_the_least_time_and_not_the_best_for_each_device():
    for batch, model in product(TOKENS, DENSE):
        ran = pays_result(batch=batch, model=model)
        assert all(sum(ran.times[ran.best]) <= sum(time) for time in ran.times.values() if time)
        assert max(SHARDS, key=lambda t: ran.speedup(t) / t if ran.times[t] else 0) == 1
    assert pays_result(batch=1).best < pays_result(batch=16384).best


def test_the_verdict_is_that_of_the_numbers():
    decoding = {"batch": 1, "model": "Llama 3.1 8B", "device": "H100 SXM", "link": "NVLink 4"}
    assert "✓ 4 shards are 1.9× as fast as one:" in draw_pays(4, **decoding)
    assert "✗ 16 shards are slower than one:" in draw_pays(16, **decoding)
    assert "✗ 64 shards:" in draw_pays(64, **decoding) and "32 heads cannot" in draw_pays(64, **decoding)
    assert "One device:" in draw_pays(1, **decoding) and "Best: 4 shards," in draw_pays(1, **decoding)
    small = decoding | {"model": "Qwen3 0.6B", "link": "InfiniBand NDR"}
    assert "Best: one device." in draw_pays(2, **small)


def test_the_canvas_stays_where_it_is():
    states = product((1, 8, 64), (1, 65536), ("Llama 3.1 405B", "Qwen3 14B"))
    sizes = {labs.pays_picture(*state).data.split("viewBox=")[1][:30] for state in states}
    assert len(sizes) == 1
