"""Lesson 06: what backward needs. The gradients of a column split and of a row split, by hand."""

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.split import Split


class Gradients(Split):
    """A `Split` whose results are gradients themselves: there is nothing more to go back through. The inputs require
    grad, so that an answer may let autograd do it."""

    requires_grad = True

    def check(self, answer=None, gradients=True):
        """Try `answer` on fresh random inputs, on 1 to 4 shards: its values, which are gradients, and what moved."""
        return super().check(answer, gradients=False)


def sizes(n, integer):
    """Two shapes; what is cut divides by n, and no two sizes are the same, so that no wrong product fits by chance."""
    D = n * integer(3, 4)
    return [{"B": 2, "D": D, "F": D + n * integer(1, 2)}, {"B": 5, "D": 2 * n, "F": 3 * n}]


def of_dX(move):
    """An answer of `column_backward` whose dX is move(mesh, partial sum)."""
    return lambda mesh, X, W, G: (move(mesh, G @ W.T), X.T @ G)


def of_dW(move):
    """An answer of `column_backward` whose dW is move(mesh, the shard's own columns)."""
    return lambda mesh, X, W, G: (mesh.all_reduce(G @ W.T), move(mesh, X.T @ G))


EXCHANGED = "dW is returned first and dX second: `return dX, dW`."
COLUMN_MISTAKES = [
    Mistake(
        "missing f",
        "Each shard's G @ W.T is its own part of dX: X went into the columns of all shards, and a shard knows the way "
        "back from its own alone. The parts are to be added. (mesh.copy does that in *its* backward; here you are in "
        "the backward, so the all-reduce itself is wanted.)",
        of_dX(lambda mesh, p_: p_),
    ),
    Mistake(
        "f twice",
        "dX is added up over the shards twice: after the first all-reduce every shard has all of it, and the second "
        "adds n equal copies.",
        of_dX(lambda mesh, p_: mesh.all_reduce(mesh.all_reduce(p_))),
    ),
    mistakes.gather_for_reduce(
        of_dX(lambda mesh, p_: mesh.all_gather(p_, dim=1)),
        of_dX(lambda mesh, p_: mesh.all_gather(p_, dim=0)),
        of_dX(lambda mesh, p_: mesh.all_gather(p_, dim=0).sum(0)),
    ),
    mistakes.mean_for_sum(of_dX(lambda mesh, p_: mesh.all_reduce(p_) / mesh.size)),
    mistakes.max_for_sum(of_dX(lambda mesh, p_: mesh.all_reduce(p_, op="max"))),
    mistakes.one_shards_part(
        of_dX(lambda mesh, p_: mesh.broadcast(p_)),
        of_dX(lambda mesh, p_: mesh.broadcast(p_, src=mesh.size - 1)),
    ),
    mistakes.only_a_slice(
        of_dX(lambda mesh, p_: mesh.reduce_scatter(p_, dim=1)),
        of_dX(lambda mesh, p_: mesh.reduce_scatter(p_, dim=0)),
    ),
    Mistake(
        "dW reduced",
        "Each shard's dW is that of its own columns of W, finished: an all-reduce adds those of different columns.",
        of_dW(lambda mesh, dW: mesh.all_reduce(dW)),
        lambda mesh, X, W, G: (G @ W.T, mesh.all_reduce(X.T @ G)),
        lambda mesh, X, W, G: (mesh.all_reduce(G @ W.T), mesh.all_reduce(X.T @ G) / mesh.size),
    ),
    Mistake(
        "dW gathered",
        "Each shard is to keep the gradient of its own columns, as large as its own W. Here it gets that of all.",
        of_dW(lambda mesh, dW: mesh.all_gather(dW, dim=1)),
        of_dW(lambda mesh, dW: mesh.all_gather(dW, dim=0)),
    ),
    Mistake(
        "dW transposed",
        "G.T @ X is dW lying on its side, as torch.nn.Linear would keep it. W is [in, out] here: X.T @ G.",
        of_dW(lambda mesh, dW: dW.T),
    ),
    Mistake("results exchanged", EXCHANGED, lambda mesh, X, W, G: (X.T @ G, mesh.all_reduce(G @ W.T))),
    mistakes.baseline(
        lambda mesh, X, W, G: (mesh.all_gather(G, dim=1) @ mesh.all_gather(W, dim=1).T, X.T @ G),
        lambda mesh, X, W, G: (
            mesh.all_gather(G, dim=1) @ mesh.all_gather(W, dim=1).T,
            mesh.scatter(X.T @ mesh.all_gather(G, dim=1), dim=1),
        ),
    ),
]


def of_both(move_dX, move_dW=lambda mesh, dW: dW):
    """An answer of `row_backward` that moves its results, one of which is each shard's own already."""
    return lambda mesh, X, W, G: (move_dX(mesh, G @ W.T), move_dW(mesh, X.T @ G))


def as_it_is(mesh, x_):
    return x_


def behind(mesh, G):
    return mesh.all_reduce(G)


def of_G(move):
    """An answer of `row_backward` that goes on with move(mesh, G)."""

    def answer(mesh, X, W, G):
        G = move(mesh, G)
        return G @ W.T, X.T @ G

    return answer


ROW_MISTAKES = [
    Mistake(
        "g with an all-reduce behind it",
        "G is added up over the shards before it is used. But y is replicated, so every shard has all of its gradient "
        "already: the sum is n times too large. The backward of g is the identity.",
        of_G(behind),
        lambda mesh, X, W, G: (behind(mesh, G) @ W.T, X.T @ behind(mesh, G)),
        lambda mesh, X, W, G: (behind(mesh, G) @ W.T, X.T @ G),
        lambda mesh, X, W, G: (G @ W.T, X.T @ behind(mesh, G)),
    ),
    Mistake(
        "a mean of G",
        "G is averaged over the shards. They all have the same, so the mean is G again, and moving it was for nothing.",
        of_G(lambda mesh, G: behind(mesh, G) / mesh.size),
        lambda mesh, X, W, G: ((behind(mesh, G) / mesh.size) @ W.T, X.T @ (behind(mesh, G) / mesh.size)),
    ),
    Mistake(
        "dX reduced",
        "Each shard's G @ W.T is dX for its own columns of X, finished: an all-reduce adds those of different columns.",
        of_both(lambda mesh, dX: mesh.all_reduce(dX)),
        of_both(lambda mesh, dX: mesh.all_reduce(dX), lambda mesh, dW: mesh.all_reduce(dW)),
    ),
    Mistake(
        "dW reduced",
        "Each shard's X.T @ G is dW for its own rows of W, finished: an all-reduce adds those of different rows.",
        of_both(as_it_is, lambda mesh, dW: mesh.all_reduce(dW)),
    ),
    Mistake(
        "dX gathered",
        "X came by columns, and its gradient stays so: each shard keeps its own, and nothing moves.",
        of_both(lambda mesh, dX: mesh.all_gather(dX, dim=1)),
        of_both(lambda mesh, dX: mesh.all_gather(dX, dim=0)),
        of_both(lambda mesh, dX: mesh.all_gather(dX, dim=1), lambda mesh, dW: mesh.all_gather(dW, dim=0)),
    ),
    Mistake(
        "dW gathered",
        "W came by rows, and its gradient stays so: each shard keeps its own, and nothing moves.",
        of_both(as_it_is, lambda mesh, dW: mesh.all_gather(dW, dim=0)),
        of_both(as_it_is, lambda mesh, dW: mesh.all_gather(dW, dim=1)),
    ),
    Mistake(
        "dW transposed",
        "G.T @ X is dW lying on its side, as torch.nn.Linear would keep it. W is [in, out] here: X.T @ G.",
        of_both(as_it_is, lambda mesh, dW: dW.T),
    ),
    Mistake("results exchanged", EXCHANGED, lambda mesh, X, W, G: (X.T @ G, G @ W.T)),
    mistakes.baseline(
        lambda mesh, X, W, G: (mesh.scatter(G @ mesh.all_gather(W, dim=0).T, dim=1), X.T @ G),
        lambda mesh, X, W, G: (G @ W.T, mesh.scatter(mesh.all_gather(X, dim=1).T @ G, dim=0)),
        lambda mesh, X, W, G: (
            mesh.scatter(G @ mesh.all_gather(W, dim=0).T, dim=1),
            mesh.scatter(mesh.all_gather(X, dim=1).T @ G, dim=0),
        ),
    ),
]


column_backward = Gradients(
    "column_backward",
    "Back through y = X @ W, W cut by columns. G is the gradient of y. Return dX and dW.",
    given={"X": ("B D", "replicated"), "W": ("D F", "by columns"), "G": ("B F", "by columns")},
    wanted="dX: [B, D], all of it on every shard; dW: [D, F], by columns, as W is",
    sizes=sizes,
    dense=lambda n, X, W, G: (G @ W.T, X.T @ G),
    right=of_dX(lambda mesh, p_: mesh.all_reduce(p_)),
    mistakes=COLUMN_MISTAKES,
    results={"dX": "replicated", "dW": "by columns"},
)
row_backward = Gradients(
    "row_backward",
    "Back through y = X @ W, W cut by rows and X by columns; y is replicated, and so is its gradient G. Return dX, dW.",
    given={"X": ("B D", "by columns"), "W": ("D F", "by rows"), "G": ("B F", "replicated")},
    wanted="dX: [B, D], by columns, as X is; dW: [D, F], by rows, as W is; and nothing moves",
    sizes=sizes,
    dense=lambda n, X, W, G: (G @ W.T, X.T @ G),
    right=of_both(as_it_is),
    mistakes=ROW_MISTAKES,
    results={"dX": "by columns", "dW": "by rows"},
)
