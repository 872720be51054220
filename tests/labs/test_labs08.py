"""Lab 08: the loss of a cut vocabulary against the dense one, what each way moves, and what the picture says of it."""

from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy

from shardlab import labs
from shardlab.labs.lab08_vocabulary import draw_vocabulary, vocabulary_data, vocabulary_result
from shardlab.pictures.vocabulary import owner


@pytest.mark.parametrize("V, shards, tokens", [*product((10, 37, 100), (1, 3, 8), (1, 5))])
def test_both_ways_give_the_loss_of_plain_torch(V, shards, tokens):
    ran = vocabulary_result(V, shards, tokens)
    logits, targets = vocabulary_data(V, tokens)
    losses = cross_entropy(logits, targets, reduction="none")
    for loss in ran.loss.values():
        assert abs(loss - losses.mean()) < 1e-5
    rows = zip(ran.tokens, logits, targets.tolist(), losses.tolist(), strict=True)
    for token, row, target, loss in rows:
        top, total, own = token.numbers
        assert token.target == target and row[token.largest] == row.max() == top and own == row[target].item()
        assert abs(top + torch.tensor(total).log().item() - own - loss) < 1e-5
    assert sum(ran.sizes) == V and len(ran.sizes) == shards


@pytest.mark.parametrize("V, shards, tokens", [(10, 2, 1), (64, 4, 8), (37, 3, 2)])
def test_gathering_costs_the_vocabulary_and_the_other_way_six(V, shards, tokens):
    ran = vocabulary_result(V, shards, tokens)
    ring = 4 * tokens * (shards - 1) / shards
    assert ran.sent == pytest.approx({"reduce": 6 * ring, "gather": V * ring})
    assert [call.name for call in ran.traffic["reduce"]] == ["all_reduce"] * 3
    assert [call.name for call in ran.traffic["gather"]] == ["all_gather"]


def test_on_one_shard_nothing_is_sent():
    assert set(vocabulary_result(10, 1, 2).sent.values()) == {0}
    assert ">0 bytes<" in labs.vocabulary_picture(10, 1, 2).data


def test_the_verdict_is_that_of_the_numbers(monkeypatch):
    few, all_of_them = draw_vocabulary(24, 4, 4, "reduce"), draw_vocabulary(24, 4, 4, "gather")
    assert "✓ Match." in few and "3 all_reduces" in few and "16 bytes each" in few
    assert "One all_gather" in all_of_them and "384 bytes" in all_of_them
    monkeypatch.setattr("shardlab.labs.lab08_vocabulary.cross_entropy", lambda logits, targets: logits.mean())
    assert "✗ Mismatch." in draw_vocabulary(24, 4, 4, "reduce")


def test_the_canvas_stays_where_it_is():
    states = product((10, 100), (1, 8), (1, 8), ("reduce", "gather"))
    assert len({labs.vocabulary_picture(*state).data.split("viewBox=")[1][:30] for state in states}) == 1


def test_a_word_belongs_to_the_shard_whose_piece_it_lies_in():
    assert [owner(word, [0, 3, 3, 5]) for word in range(5)] == [0, 0, 0, 2, 2]
