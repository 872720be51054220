"""Lab 05: the chain of split products against the unsplit one, and what its picture says of each step."""

from itertools import product

import pytest
import torch

from shardlab import labs
from shardlab.labs.activations import ACTIVATIONS
from shardlab.labs.lab05_mlp import draw_mlp, layers_data, mlp_result
from shardlab.pictures.way import Held


@pytest.mark.parametrize("cut", ["column, row", "column, column", "row, row"])
@pytest.mark.parametrize("layers", [2, 4, 6])
@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_where_each_sum_is_taken_the_result_is_that_of_plain_torch(cut, layers, shards):
    for activation in ("gelu", "x + 1"):
        ran = mlp_result(layers, shards, cut, "each", activation)
        assert ran.error < 1e-5
        X, weights = layers_data(layers)
        y = X
        for number, W in enumerate(weights, 1):
            y = ACTIVATIONS[activation](y @ W) if number < layers else y @ W
        late = mlp_result(layers, shards, cut, "end", activation)
        late_is_wrong = shards > 1 and (cut == "row, row" or (cut == "column, row" and layers > 2))
        assert (late.error > 0.1) == late_is_wrong
        torch.testing.assert_close(ran.y, y, rtol=1e-4, atol=1e-4 * y.abs().max().item())


def test_it_counts_the_collectives_that_theory_asks_for():
    for cut, names in (
        ("column, row", ["all_reduce"]),
        ("column, column", ["all_gather"] * 2),
        ("row, row", ["all_reduce"] * 2),
    ):
        for layers in (2, 4, 6):
            assert [call.name for call in mlp_result(layers, 4, cut).traffic] == names * (layers // 2)
    traffic = mlp_result(2, 4).traffic
    assert (traffic[0].payload, list(traffic[0].shape)) == (4 * 16 * 64, [16, 64])


def test_the_picture_says_of_what_kind_each_value_is():
    kinds = [[item.kind for item in row if isinstance(item, Held)] for row in mlp_result(2, 4).rows]
    assert kinds == [["replicated", "cut along dim 1"], ["cut along dim 1", "partial", "replicated"]]
    late = [item.kind for row in mlp_result(4, 4, reduce="end").rows for item in row if isinstance(item, Held)]
    assert late[:3] == ["replicated", "cut along dim 1", "cut along dim 1"] and set(late[3:]) == {"none of these"}


def test_the_verdict_is_that_of_the_numbers():
    right, wrong = draw_mlp(4, 4, "column, row", "each", "gelu"), draw_mlp(4, 4, "column, row", "end", "gelu")
    assert "✓ Match." in right and "2 all_reduces" in right
    assert "✗ 87 % wrong." in wrong and "from h2 on" in wrong and "Match" not in wrong
    assert "h2 is none of these" in wrong  # in the words of the picture


def test_the_canvas_stays_where_it_is():
    states = product((1, 2, 5, 8), ("column, row", "row, row"), ("each", "end"))
    sizes = {labs.mlp_picture(4, *state).data.split("viewBox=")[1][:30] for state in states}
    assert len(sizes) == 1
