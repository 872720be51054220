"""Lesson 07: causal self-attention, each shard its own heads: q, k, v by columns, o by rows, one all-reduce."""

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.heads import answered, attend, in_heads, of_heads, reduced, scaled, side_by_side
from shardlab.exercises.split import Split


def own_heads(mesh, xs, Wq, Wk, Wv, heads):
    return [in_heads(x @ W, heads // mesh.size) for x, W in zip(xs, (Wq, Wk, Wv), strict=True)]


def sizes(n, integer):
    """n divides d, so that a head that is cut inside is no error; D is 7, and nothing else is."""
    for heads in [2 * n, n] if n % 2 == 0 else [2 * n]:
        yield {"T": integer(3, 5), "D": 7, "heads": heads, "heads·d": heads * max(n, 2)}


def dense(n, X, Wq, Wk, Wv, Wo, heads):
    return attend(*(in_heads(X @ W, heads) for W in (Wq, Wk, Wv))) @ Wo


attention = Split(
    "attention",
    "Causal self-attention: q, k, v = X @ Wq, X @ Wk, X @ Wv in heads of d columns; softmax(q kᵀ / √d) v of each, "
    "where token t sees the tokens 0 to t, and the heads side by side @ Wo. n divides heads. One all-reduce.",
    given={
        "X": ("T D", "replicated"),
        "Wq": ("D heads·d", "by columns"),
        "Wk": ("D heads·d", "by columns"),
        "Wv": ("D heads·d", "by columns"),
        "Wo": ("heads·d D", "by rows"),
        "heads": ("heads", "a number"),
    },
    wanted="y: [T, D], the same on every shard",
    sizes=sizes,
    dense=dense,
    right=answered(own_heads),
    mistakes=[
        Mistake(
            "heads cut inside",
            "Each shard makes all the heads, of 1/n of their columns. A softmax over a part of a head's products is no "
            "part of its softmax: a shard's columns are heads/n whole heads.",
            answered(lambda mesh, xs, Wq, Wk, Wv, heads: own_heads(mesh, xs, Wq, Wk, Wv, heads * mesh.size)),
            scaled(
                lambda mesh, xs, Wq, Wk, Wv, heads: own_heads(mesh, xs, Wq, Wk, Wv, heads * mesh.size),
                lambda mesh, q, X: (q.shape[-1] * mesh.size) ** -0.5,
            ),
        ),
        Mistake(
            "heads interleaved",
            "A head is d columns side by side, and here its columns lie heads/n apart.",
            answered(
                lambda mesh, xs, *rest: [
                    side_by_side(x).unflatten(1, (-1, x.shape[0])).movedim(2, 0) for x in own_heads(mesh, xs, *rest)
                ]
            ),
        ),
        mistakes.baseline(
            lambda mesh, X, Wq, Wk, Wv, Wo, heads: (
                attend(*(in_heads(X @ mesh.all_gather(W, 1), heads) for W in (Wq, Wk, Wv))) @ mesh.all_gather(Wo, 0)
            ),
            lambda mesh, X, Wq, Wk, Wv, Wo, heads: (
                attend(*(in_heads(mesh.all_gather(X @ W, 1), heads) for W in (Wq, Wk, Wv))) @ mesh.all_gather(Wo, 0)
            ),
            lambda mesh, X, Wq, Wk, Wv, Wo, heads: reduced(
                mesh,
                mesh.scatter(attend(*(in_heads(mesh.all_gather(X @ W, 1), heads) for W in (Wq, Wk, Wv))), 1),
                Wo,
            ),
        ),
        *of_heads(own_heads),
    ],
)
