"""Lesson 06, second part: an MLP with every gradient right."""

from torch.nn.functional import gelu

from shardlab.exercises.exercise import Mistake
from shardlab.exercises.lesson05 import MLP_MISTAKES, hidden, mlp_sizes
from shardlab.exercises.split import Split


class ThereAndBack(Split):
    """A `Split` that is about its gradients, and so checks them unless told otherwise."""

    def check(self, answer=None, gradients=True):
        """Try `answer` on fresh random inputs, on 1 to 4 shards: values, communication, and every gradient."""
        return super().check(answer, gradients)


def with_g(leave, enter=lambda mesh, X: mesh.copy(X)):
    """An MLP that enters its split region by enter(mesh, X), and leaves it by leave(mesh, partial sum)."""
    return lambda mesh, X, W1, W2: leave(mesh, gelu(enter(mesh, X) @ W1) @ W2)


def g(mesh, p_):
    return mesh.all_reduce(p_)


def g_in_two_steps(mesh, p_):
    return mesh.all_gather(mesh.reduce_scatter(p_, dim=1), dim=1)


def both_ways(mesh, p_):
    return mesh.copy(mesh.all_reduce(p_))


FINER = {"missing backward all-reduce", "reduced again in backward", "copy of a cut tensor"}
MLP_GRADIENT_MISTAKES = [
    *[mistake for mistake in MLP_MISTAKES if mistake.name not in FINER],
    Mistake(
        "missing f",
        "The forward is right. But the gradient of X is partial: each shard sends back what comes through its own "
        "columns of W1, and nobody adds the parts. X is to enter by mesh.copy, whose backward is the all-reduce.",
        with_g(g, lambda mesh, X: X),
        with_g(g_in_two_steps, lambda mesh, X: X),
    ),
    Mistake(
        "f twice",
        "X goes through mesh.copy twice. Backward, the first all-reduce makes the gradient of X whole, and the second "
        "adds n equal copies of it.",
        with_g(g, lambda mesh, X: mesh.copy(mesh.copy(X))),
        with_g(g_in_two_steps, lambda mesh, X: mesh.copy(mesh.copy(X))),
    ),
    Mistake(
        "g with an all-reduce behind it",
        "After the all-reduce comes a mesh.copy, so that backward reduces there, too. The gradient of y is whole on "
        "every shard already: every gradient behind it comes out n times too large. The backward of g is the identity.",
        with_g(both_ways),
        with_g(lambda mesh, p_: mesh.copy(g_in_two_steps(mesh, p_))),
        with_g(lambda mesh, p_: mesh.all_reduce(mesh.copy(p_))),
    ),
    Mistake(
        "f at the wrong end",
        "The all-reduce of backward comes behind y, where the gradient is whole, and is missing at X, where it is "
        "partial. The gradients of W1 and W2 come out n times too large.",
        with_g(both_ways, lambda mesh, X: X),
        with_g(lambda mesh, p_: mesh.all_reduce(mesh.copy(p_)), lambda mesh, X: X),
    ),
    Mistake(
        "f on the hidden value",
        "mesh.copy is for a replicated value. The hidden one is cut: each shard's columns have a gradient of their "
        "own, and here those of different columns are added.",
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(hidden(mesh, X, W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(gelu(X @ W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(mesh.copy(mesh.copy(X) @ W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(mesh.copy(X @ W1)) @ W2),
    ),
    Mistake(
        "f on a weight",
        "mesh.copy is for a replicated value. A cut weight is each shard's own, and so is its gradient: here those of "
        "different pieces are added.",
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(mesh.copy(X) @ mesh.copy(W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(hidden(mesh, X, W1) @ mesh.copy(W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(mesh.copy(X) @ mesh.copy(W1)) @ mesh.copy(W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X @ mesh.copy(W1)) @ mesh.copy(W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X @ mesh.copy(W1)) @ W2),
    ),
]


mlp_gradients = ThereAndBack(
    "mlp_gradients",
    "y = gelu(X @ W1) @ W2, W1 cut by columns and W2 by rows: the forward, and with it every gradient right, with the "
    "least communication there and back.",
    given={"X": ("B D", "replicated"), "W1": ("D F", "by columns"), "W2": ("F D", "by rows")},
    wanted="y: [B, D], the same on every shard; backward: dX whole, dW1 by columns, dW2 by rows",
    sizes=mlp_sizes,
    dense=lambda n, X, W1, W2: gelu(X @ W1) @ W2,
    right=with_g(g),
    mistakes=MLP_GRADIENT_MISTAKES,
)
