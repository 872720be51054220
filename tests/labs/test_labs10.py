"""Lab 10: the bytes of each part against the formulae and against hand counts, and what the picture says of them."""

import re
from itertools import product

import pytest
import torch

from shardlab import labs
from shardlab.cost import DEVICES, MODELS, activation_bytes, parameters
from shardlab.labs import lab10_memory
from shardlab.labs.lab10_memory import HERE, SIZES, draw_memory, memory_result

STATE = {"model": "22B", "card": "H100 SXM", "shards": 8, "tokens": 2048, "batch": 1, "use": "training, mixed"}
STATE |= {"sequence": False, "recompute": "none"}


def test_a_gpt_in_training_by_hand():
    """22B: 48 layers of 6144, 64 heads (arXiv 2205.05198, table 3)."""
    parts = memory_result("22B", shards=8).parts
    weights = 12 * 48 * 6144**2 * (1 + 13 / (12 * 6144) + (51200 + 2048) / (12 * 48 * 6144))
    assert [parts[name] for name in ("parameters", "gradients", "optimizer")] == pytest.approx(
        [2 * weights / 8, 2 * weights / 8, 12 * weights / 8]
    )
    layers = 48 * 2048 * 6144 * (10 + 24 / 8 + 5 * 64 * 2048 / 6144 / 8)
    assert parts["activations"] == pytest.approx(layers + 4 * 2048 * 51200 / 8)
    assert parts["activations"] - 4 * 2048 * 51200 / 8 == pytest.approx(48 * activation_bytes(2048, 1, 6144, 64, t=8))


def test_a_model_of_today_in_serving_by_hand():
    parts = memory_result("Llama 3.1 8B", shards=4, tokens=8192, batch=3, use="serving, bf16").parts
    assert parts["parameters"] == 2 * parameters(MODELS["Llama 3.1 8B"]) / 4
    assert parts["KV cache"] == 3 * 8192 * 128 * 1024 / 4
    eight, more = (memory_result("Llama 3.1 8B", shards=t, use="serving, bf16").parts["KV cache"] for t in (8, 16))
    assert eight == more  # it has 8 kv heads, and two shards have a copy each
    assert not parts["gradients"] and not parts["optimizer"] and "activations" not in parts
    gpt = memory_result("GPT-3 175B", shards=8, tokens=100, use="serving, bf16").parts
    assert gpt["KV cache"] == 2 * 96 * 12288 * 100 * 2 / 8


def test_32_bits_take_twice_what_16_do_but_for_masks_and_logits():
    mixed, full = (memory_result("22B", shards=8, use=use).parts for use in ("training, mixed", "training, fp32"))
    assert sum(full[name] for name in full) - full["activations"] == sum(mixed.values()) - mixed["activations"]
    logits, masks = 4 * 2048 * 51200 / 8, 48 * (2 * 2048 * 6144 + 64 * 2048**2 / 8)
    assert full["activations"] - logits - masks == pytest.approx(2 * (mixed["activations"] - logits - masks))


@pytest.mark.parametrize("name", SIZES)
def test_the_fewest_shards_are_the_first_on_which_it_fits(name):
    for use in ("training, mixed", "serving, bf16"):
        least = memory_result(name, use=use).least
        fits = [
            t
            for t in (1, 2, 4, 8, 16, 32, 64, 128)
            if SIZES[name].heads % t == 0
            and sum(memory_result(name, shards=t, use=use).parts.values()) <= DEVICES["H100 SXM"].memory_GB * 1e9
        ]
        assert least == (fits[0] if fits else None)


def test_each_switch_takes_bytes_away_and_none_adds():
    def kept(**change):
        return memory_result(**{**STATE, **change}).parts["activations"]

    assert kept() > kept(sequence=True) > kept(sequence=True, recompute="selective") > kept(recompute="full")
    assert kept(batch=2) == 2 * kept() and kept(tokens=4096) > 2 * kept()
    fused = {"model": "Llama 3.1 8B"}
    assert kept(**fused) == kept(**fused, recompute="selective") > kept(**fused, sequence=True)


def test_the_verdict_is_that_of_the_numbers():
    fits, not_yet = draw_memory(**STATE), draw_memory(**{**STATE, "shards": 4})
    assert "✓ It fits." in fits and "not" not in re.sub(r"<svg.*?</svg>", "", fits)
    assert "✗ It does not fit." in not_yet and "It fits from 8 shards on." in not_yet
    never = draw_memory(**{**STATE, "model": "GPT-3 175B"})
    assert "It fits on no power of two that divides its heads." in never and "405 GB →" in never
    assert "✗ 8 does not divide 20 heads." in draw_memory(**{**STATE, "model": "Megatron 2.5B"})
    assert "6.04 of it on every device alike" in fits  # 10 sbh a layer, 48 of them
    assert "alike" not in draw_memory(**{**STATE, "sequence": True})


def test_this_machine_has_its_ram_or_its_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    total = lab10_memory.here()[1]
    assert memory_result("Qwen3 0.6B", HERE, 4).limit == pytest.approx(total / 4)  # all on one machine
    assert "no GPU, and its RAM; 4 of 4 shards share" in draw_memory(**{**STATE, "card": HERE, "shards": 4})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    sizes = [type("Card", (), {"total_memory": size}) for size in (24e9, 16e9)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", sizes.__getitem__)
    assert [memory_result("22B", HERE, shards).limit for shards in (1, 2, 4, 8)] == [16e9, 16e9, 8e9, 4e9]
    assert "it has 2 GPUs; 2 of 4 shards share 16 GB." in draw_memory(**{**STATE, "card": HERE, "shards": 4})


def test_the_canvas_stays_where_it_is():
    states = product(("22B", "Llama 3.1 8B"), ("H100 SXM", "TPU v5e"), (1, 2, 8), (1024, 65536))
    sizes = {labs.memory_picture(*state).data.split("viewBox=")[1][:30] for state in states}
    sizes |= {labs.memory_picture(use="serving, bf16").data.split("viewBox=")[1][:30]}
    assert len(sizes) == 1
