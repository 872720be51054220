"""Lab 07: a fused weight cut by head and as it lies, against attention that torch computes unsplit."""

import re
from itertools import product

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from shardlab import labs
from shardlab.labs.lab07_heads import SIZE, T, draw_heads, heads_data, heads_result, names_in, own_heads, pieces_of

SHAPES = [(4, 1), (4, 4), (8, 2), (8, 4)]
LAYOUTS = ["by kind", "interleaved"]


def by_hand(heads, kv_heads):
    """The unsplit layer, from q, k and v side by side."""
    X, W, O = heads_data(heads, kv_heads)
    parts = (X @ W).split([heads * SIZE, kv_heads * SIZE, kv_heads * SIZE], dim=1)
    q, k, v = (part.unflatten(1, (-1, SIZE)).transpose(0, 1) for part in parts)
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(0, 1).flatten(1) @ O


@pytest.mark.parametrize("heads, kv_heads", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_by_head_every_number_of_shards_is_right(heads, kv_heads, layout, monkeypatch):
    wanted = []
    monkeypatch.setattr(torch.Tensor, "norm", lambda self: wanted.append(self) or self.square().sum().sqrt())
    for shards in range(1, 9):
        assert heads_result(heads, kv_heads, shards, layout).error < 1e-6
        torch.testing.assert_close(
            wanted[-1], by_hand(heads, kv_heads), rtol=1e-4, atol=1e-4
        )  # what it is held against


@pytest.mark.parametrize("heads, kv_heads", SHAPES)
def test_cut_as_it_lies_it_is_wrong_by_kind_lucky_by_head_and_stops_where_a_head_is_cut(heads, kv_heads):
    for shards, layout in product(range(1, 9), LAYOUTS):
        ran = heads_result(heads, kv_heads, shards, layout, "as it lies")
        assert (ran.error is None) == (kv_heads % shards != 0) == bool(ran.stopped)
        if ran.error is not None:
            assert (ran.error > 1) == (shards > 1 and layout == "by kind")


def test_whose_a_head_is():
    assert list(own_heads(8, 2, 4))[1:3] == [["q2", "q3", "k0", "v0"], ["q4", "q5", "k1", "v1"]]
    assert list(own_heads(8, 4, 3))[1] == ["q3", "q4", "q5", "k1", "k2", "v1", "v2"]  # a group on two shards
    assert list(own_heads(4, 2, 5))[4] == []


def test_where_the_columns_of_a_head_lie():
    assert names_in("by kind", 2, 1) == ["q0", "q1", "k0", "v0"]
    assert names_in("interleaved", 4, 4)[:6] == ["q0", "k0", "v0", "q1", "k1", "v1"]  # BLOOM's
    assert pieces_of(torch.arange(4, 20), ["q0", "q1", "k0"]) == [("q0", 0.5, 1), ("q1", 0, 1), ("k0", 0, 0.5)]


def test_each_column_goes_to_one_shard_when_it_is_cut_as_it_lies():
    ran = heads_result(8, 2, 5, "by kind", "as it lies")
    assert torch.cat([*ran.columns]).tolist() == list(range(12 * SIZE))
    ran = heads_result(8, 2, 4)
    assert len(torch.cat([*ran.columns]).unique()) == 12 * SIZE and len(torch.cat([*ran.columns])) == 16 * SIZE


def test_the_verdict_is_that_of_the_numbers():
    right, wrong, stopped = (
        draw_heads(8, 2, *state)
        for state in ((4, "by kind", "by head"), (2, "by kind", "as it lies"), (4, "by kind", "as it lies"))
    )
    assert "✓ Match." in right
    assert "✗ 133 % wrong, and no exception." in wrong and "7 of 12 heads" in wrong
    assert "shard 0 takes q4 for k0" in wrong
    assert f"✗ It stops:</b> shape &#x27;[{T}, -1, {SIZE}]&#x27; is invalid" in stopped
    assert "Shard 0 gets q0, q1, q2, q3, q4, q5, taken for q0, q1, q2, q3, k0, v0." in wrong  # for those who hear it
    assert "q2 in part" in draw_heads(8, 2, 5, "by kind", "as it lies")


def test_the_canvas_stays_where_it_is():
    states = product((4, 8), (1, 4), (1, 3, 8), LAYOUTS, ("by head", "as it lies"))
    assert len({re.search('viewBox="[^"]*"', labs.heads_picture(*state).data)[0] for state in states}) == 1
