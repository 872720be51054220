"""Lab 06: the layer there and back against plain torch, and what its picture says of each step."""

import re
import warnings
from itertools import product

import pytest
import torch

from shardlab import labs
from shardlab.labs.lab06_backward import IS_TO_BE, LAST, backward_data, backward_result, draw_backward, seen

NAMES = set(IS_TO_BE)


def wrong(ran):
    return set(ran.wrong)


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_with_f_and_g_every_value_and_gradient_is_of_its_kind(shards):
    ran = backward_result(shards)
    assert wrong(ran) == set() and set(ran.kinds) == NAMES
    if shards > 1:
        assert ran.kinds == IS_TO_BE
    payload = backward_data()[0].nbytes
    assert [(call.name, call.payload) for call in ran.forward] == [("all_reduce", payload)] * (shards > 0)
    assert [(call.name, call.payload) for call in ran.backward] == [("all_reduce", payload)]


@pytest.mark.parametrize("shards", [2, 4])
def test_what_is_left_out_is_wrong_there_and_nowhere_else(shards):
    no_f, no_g = backward_result(shards, f="none"), backward_result(shards, g="none")
    assert wrong(no_f) == {"dX"} and no_f.kinds["dX"] == "partial" and not no_f.backward
    assert wrong(no_g) == {"y"} and no_g.kinds["y"] == "partial" and not no_g.forward
    twice = backward_result(shards, g="both")
    assert wrong(twice) == {"dp", "da", "dh", "dx", "dX", "dW1", "dW2"} and len(twice.backward) == 2
    assert all(twice.off[name] == pytest.approx(shards - 1, rel=1e-3) for name in wrong(twice))  # n times, so n - 1 off


def test_its_numbers_are_those_of_plain_torch():
    X, W1, W2, dy = (tensor.clone().requires_grad_() for tensor in backward_data())
    (torch.nn.functional.gelu(X @ W1) @ W2).backward(dy.detach())
    half = torch.nn.functional.gelu(X.detach() @ W1.detach()[:, :12]) @ W2.detach()[:12]
    y = torch.nn.functional.gelu(X @ W1) @ W2
    off = (half - y).abs().max() / y.abs().max()
    rest = (y - half - y).abs().max() / y.abs().max()
    assert backward_result(2, g="none").off["y"] == pytest.approx(max(off.item(), rest.item()), rel=1e-4)


def test_a_step_shows_what_is_there_and_hides_what_is_to_come():
    assert seen(0) == ["X"] and seen(6)[-1] == "dy" and set(seen(LAST)) == NAMES and len(seen(LAST)) == len(NAMES)
    for step in range(LAST + 1):
        drawn = draw_backward(step, 2, "f", "g")
        assert {name for name in NAMES if f">{name} ✓<" in drawn} == set(seen(step))
        assert f"step {step} of {LAST}" in drawn and f"Step {step}." in drawn
        assert drawn.count('rx="8"') == len(seen(step)), "a badge for each"


def test_the_letters_are_those_of_value_and_gradient():
    def letters(*state):
        return re.findall(r'font-size="20"[^>]*>(.)</text>', draw_backward(LAST, *state))

    assert letters(4, "f", "g") == ["I", "R", "V", "V", "P", "I"]
    assert letters(4, "none", "g") == ["R", "R", "V", "V", "P", "I"]  # X is taken for R, and nobody makes it I
    assert letters(4, "f", "none")[-1] == "P"
    assert letters(4, "f", "both") == ["?"] * 5 + ["I"]
    assert letters(1, "none", "none") == ["I"] * 6


def test_the_verdict_is_that_of_the_numbers():
    assert "✓ Right so far." in draw_backward(LAST, 4, "f", "g")
    missing = draw_backward(LAST, 4, "none", "g")
    assert "✗ dX is wrong." in missing and "dX is partial, and it is to be replicated." in missing
    assert "✓ Right so far." in draw_backward(LAST - 1, 4, "none", "g"), "until the last step nobody can tell"
    twice = draw_backward(8, 4, "f", "both")
    assert "✗ dp is wrong." in twice and "Wrong with it: dW2, da." in twice and "no twins" in twice
    assert "✗ y is wrong." in draw_backward(5, 4, "f", "none")
    assert "left out" in missing and "left out" not in draw_backward(LAST, 4, "f", "g")


def test_the_canvas_stays_where_it_is():
    states = product((0, 6, 11), (1, 2, 4), ("f", "none"), ("g", "none", "both"))
    sizes = {labs.backward_picture(*state).data.split("viewBox=")[1][:30] for state in states}
    assert len(sizes) == 1


def three_backwards(mesh):
    """The gradient of a partial sum, where an all-reduce of torch's comes behind it, and where ours does."""
    from torch import distributed as dist
    from torch.distributed.nn.functional import all_reduce

    def raw(p):
        y = p * 1
        dist.all_reduce(y)
        return y

    grads = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for way in (raw, all_reduce):
            p = torch.ones(2, requires_grad=True)
            way(p).sum().backward()
            grads.append(p.grad.tolist())
    p_ = mesh.replicate(torch.ones(2, requires_grad=True))
    mesh.all_reduce(p_).sum().backward()
    return [*grads, p_.grad.shards[0].tolist()]


@pytest.mark.ranks
def test_both_ways_is_what_torch_distributed_nn_does_on_real_ranks(pool):
    raw, nn, ours = pool.run(three_backwards)[0]
    assert (raw, nn, ours) == ([1, 1], [2, 2], [1, 1])  # torch.distributed.nn: n times, as the lab's "both"
    assert backward_result(2, g="both").off["dp"] == pytest.approx(1)
