"""`Split` with results that are not one replicated value: a cut one, and several at once."""

import pytest
import torch

from shardlab import Mesh
from shardlab.exercises.split import Split
from shardlab.exercises.verdict import UNSOLVED

SIZES = [{"B": 6, "D": 12, "F": 5}, {"B": 5, "D": 12, "F": 6}]  # B and F divide by some numbers of shards alone
GIVEN = {"X": ("B D", "by columns"), "W": ("D F", "by rows")}

by_rows = Split(
    "by_rows",
    "Y = X @ W, each shard with its own rows of Y.",
    given=GIVEN,
    wanted="Y: [B, F], cut by rows",
    sizes=lambda n, integer: SIZES,
    dense=lambda n, X, W: X @ W,
    right=lambda mesh, X, W: mesh.reduce_scatter(X @ W, dim=0),
    mistakes=[],
    results={"Y": "by rows"},
)
two = Split(
    "two",
    "S = X @ W, whole on every shard, and W doubled.",
    given=GIVEN,
    wanted="S, W2",
    sizes=lambda n, integer: SIZES,
    dense=lambda n, X, W: (X @ W, 2 * W),
    right=lambda mesh, X, W: (mesh.all_reduce(X @ W), 2 * W),
    mistakes=[],
    results={"S": "replicated", "W2": "by rows"},
)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "exercise, answer",
    [
        (by_rows, lambda mesh, X, W: mesh.reduce_scatter(torch.einsum("bd,df->bf", X, W), 0)),
        (two, lambda mesh, X, W: (mesh.all_reduce(X.matmul(W)), W + W)),
        (two, lambda mesh, X, W: [mesh.all_gather(mesh.reduce_scatter(X @ W, dim=1), dim=1), W.mul(2)]),
    ],
)
def test_what_is_right_passes(exercise, answer, gradients):
    verdict = exercise.check(answer, gradients=gradients)
    assert verdict.passed, verdict


BY_ROWS = {
    "partial, not cut along dim 0": (lambda mesh, X, W: X @ W, "the shards add up to it"),
    "replicated, not cut along dim 0": (lambda mesh, X, W: mesh.all_reduce(X @ W), "every shard has all of it"),
    "cut along dim 1, not cut along dim 0": (lambda mesh, X, W: mesh.reduce_scatter(X @ W, dim=1), "its own piece"),
    "wrong sign": (lambda mesh, X, W: -mesh.reduce_scatter(X @ W, dim=0), "wrong sign"),
    "another factor": (lambda mesh, X, W: 7 * mesh.reduce_scatter(X @ W, dim=0), "times 7 on 1, 7 on 2, 7 on 3"),
    "extra communication": (lambda mesh, X, W: mesh.scatter(mesh.all_reduce(X @ W), dim=0), "all_reduce (240 bytes)"),
}
TWO = {
    "S: wrong sign": (lambda mesh, X, W: (-mesh.all_reduce(X @ W), 2 * W), "S: Every number has the wrong sign."),
    "W2: wrong sign": (lambda mesh, X, W: (mesh.all_reduce(X @ W), -2 * W), "W2: Every number has the wrong sign."),
    "a part left out": (lambda mesh, X, W: (X @ W, 2 * W), "Of S, here y:"),
    "replicated, not cut along dim 0": (
        lambda mesh, X, W: (mesh.all_reduce(X @ W), 2 * mesh.all_gather(W, dim=0)),
        "Of W2, here y: It is replicated (every shard has all of it), and it is to be cut along dim 0.",
    ),
    "another number of results": (lambda mesh, X, W: mesh.all_reduce(X @ W), "return S, W2"),
    "three of two": (lambda mesh, X, W: (X, W, W), "a tuple of 3, and its results are 2"),
    "a plain tensor": (lambda mesh, X, W: (mesh.all_reduce(X @ W), 2 * W.shards[0]), "Of W2: The function returns"),
    "rounded on the way": (lambda mesh, X, W: (mesh.all_reduce((X @ W).float()).double(), 2 * W), "of S is right but"),
    "transposed": (lambda mesh, X, W: (mesh.all_reduce(X @ W.T), 2 * W), "with the second one transposed"),
}


@pytest.mark.parametrize(
    "exercise, mistake, answer, words",
    [(by_rows, name, *each) for name, each in BY_ROWS.items()] + [(two, name, *each) for name, each in TWO.items()],
)
def test_what_is_wrong_is_named(exercise, mistake, answer, words):
    verdict = exercise.check(answer)
    assert not verdict.passed
    name = "another number of results" if mistake == "three of two" else mistake.split(": ")[-1]
    assert (verdict.mistake, words in verdict.message) == (name, True), verdict


def test_gradients_are_those_of_every_result():
    left_out = two.check(lambda mesh, X, W: (mesh.all_reduce(X @ W), 2 * W.detach()), gradients=True)
    assert not left_out.passed
    detached = by_rows.check(lambda mesh, X, W: mesh.reduce_scatter(X @ W, dim=0).detach(), gradients=True)
    assert detached.mistake == "detached", detached
    copied = by_rows.check(lambda mesh, X, W: mesh.reduce_scatter(mesh.copy(X @ W), dim=0), gradients=True)
    assert copied.mistake and not copied.passed and "gradient" in copied.message, copied
    assert two.check(lambda mesh, X, W: (mesh.all_reduce(X @ W), 2 * W.detach())).passed  # not asked for


def test_a_result_that_reads_other_shards_is_found():
    def peeking(mesh, X, W):
        own = (2 * torch.cat(W.shards)).tensor_split(mesh.size)
        return mesh.all_reduce(X @ W), type(W)([own[rank] for rank in mesh.ranks], mesh)

    assert two.check(peeking).mistake == "reads other shards"


def test_it_is_shown_where_a_piece_is_wrong_and_the_stub_is_not_solved():
    verdict = by_rows.check(lambda mesh, X, W: X @ W)
    assert "Wanted on shard 0: [3, 5]" in verdict.picture
    assert by_rows.check(lambda mesh, X, W: ...).mistake == UNSOLVED
    assert two.check(lambda mesh, X, W: None).mistake == UNSOLVED


def test_the_pieces_of_several_values_are_in_the_order_of_the_shards():
    from shardlab.exercises.placing import pieces
    from shardlab.exercises.watch import tensors_by_shard

    X = torch.arange(12.0).view(3, 4)
    mesh = Mesh(3, devices=["cpu"])
    here = tensors_by_shard((mesh.shard(X, dim=0), mesh.replicate(X), mesh.shard(X, dim=1)))
    want = pieces([X, X, X], ["by rows", "replicated", "by columns"], 3)
    assert [t.tolist() for t in here] == [t.tolist() for t in want]
