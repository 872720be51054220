"""Lesson 02: what comes after a row split, and so after the reduction: a nonlinearity, a bias."""

from difflib import get_close_matches

import torch
from torch.nn import functional as F

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Exercise, Mistake, Wrong, seeded
from shardlab.exercises.lesson01 import row_sizes
from shardlab.exercises.split import Split
from shardlab.exercises.verdict import UNSOLVED, a_kind

gelu = F.gelu


def gelu_by_a_sigmoid(x):
    return x * torch.sigmoid(1.702 * x)


OTHERS = [F.relu, torch.tanh, torch.sigmoid, F.silu, F.leaky_relu, F.elu, F.softplus, gelu_by_a_sigmoid]

ACTIVATE_MISTAKES = [
    Mistake(
        "nonlinearity before the reduction",
        "Each shard applies a nonlinearity to its partial sum, and gelu(a) + gelu(b) is not gelu(a + b).",
        lambda mesh, X, W: mesh.all_reduce(gelu(X @ W)),
        lambda mesh, X, W: mesh.all_reduce(gelu(X @ W)) / mesh.size,
        lambda mesh, X, W: mesh.all_reduce(gelu(X @ W), op="max"),
        *[lambda mesh, X, W, f=f: mesh.all_reduce(f(X @ W)) for f in OTHERS],
    ),
    Mistake(
        "nonlinearity twice",
        "gelu is applied twice, and once is wanted: after the reduction.",
        lambda mesh, X, W: gelu(mesh.all_reduce(gelu(X @ W))),
        lambda mesh, X, W: gelu(gelu(mesh.all_reduce(X @ W))),
    ),
    Mistake(
        "no nonlinearity",
        "This is X @ W, and gelu of it is wanted.",
        lambda mesh, X, W: mesh.all_reduce(X @ W),
    ),
    Mistake(
        "another nonlinearity",
        "Split and reduction are right, but this is not torch's gelu.",
        *[lambda mesh, X, W, f=f: f(mesh.all_reduce(X @ W)) for f in OTHERS],
    ),
    Mistake(
        "gelu by its tanh approximation",
        "Split and reduction are right, but gelu was approximated by a tanh, which is good to three digits only.",
        lambda mesh, X, W: gelu(mesh.all_reduce(X @ W), approximate="tanh"),
    ),
    Mistake(
        "nonlinearity of the inputs",
        "gelu was applied to what goes into the product, and gelu(X) @ W is not gelu(X @ W).",
        lambda mesh, X, W: mesh.all_reduce(gelu(X) @ W),
        lambda mesh, X, W: mesh.all_reduce(X @ gelu(W)),
        lambda mesh, X, W: mesh.all_reduce(gelu(X) @ gelu(W)),
    ),
    *mistakes.of_a_sum(
        (lambda mesh, X, W: X @ W, lambda y_, X, W: gelu(y_)),
        (lambda mesh, X, W: X @ W, lambda y_, X, W: y_),
    ),
    mistakes.baseline(
        lambda mesh, X, W: gelu(mesh.all_gather(X, dim=1) @ mesh.all_gather(W, dim=0)),
    ),
    mistakes.reduced_again(
        lambda mesh, X, W: mesh.copy(gelu(mesh.all_reduce(X @ W))),
        lambda mesh, X, W: gelu(mesh.copy(mesh.all_reduce(X @ W))),
        lambda mesh, X, W: gelu(mesh.all_reduce(mesh.copy(X @ W))),
    ),
]


def on_shard(mesh, chosen, b_):
    """b on the shard `chosen`, zeros on the others."""
    return torch.where(mesh.rank == chosen, b_, torch.zeros_like(b_))


BIAS_MISTAKES = [
    Mistake(
        "bias on every shard",
        "Every shard adds b to its partial sum, and the reduction then adds n of them: y is off by (n - 1) b.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + b),
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + b * mesh.size,
    ),
    Mistake(
        "bias twice",
        "b is added twice: once is enough, after the reduction.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + b + b,
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + b) + b,
    ),
    Mistake(
        "no bias",
        "This is X @ W, and b is still to be added.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W),
    ),
    Mistake(
        "bias subtracted",
        "b is subtracted.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) - b,
        lambda mesh, X, W, b: mesh.all_reduce(X @ W - b),
    ),
    Mistake(
        "a fraction of the bias",
        "Only b / n arrives in y: nothing adds up the fractions after the reduction.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + b / mesh.size,
    ),
    Mistake(
        "bias divided by n",
        "n times b / n is b, so the value is right. But each shard's own copy of b then gets 1/n of the "
        "gradient, and an optimizer trains it n times too slowly.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + b / mesh.size),
    ),
    Mistake(
        "bias on one shard",
        "One shard adds b, so the value is right. But the other shards' copies of b get no gradient: after one "
        "optimizer step the copies differ.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + on_shard(mesh, 0, b)),
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + on_shard(mesh, mesh.size - 1, b)),
    ),
    Mistake(
        "bias taken back",
        "(n - 1) b is subtracted again, so the value is right. But each shard's own copy of b then gets a gradient "
        "that is not the one of b in one piece.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + b) - (mesh.size - 1) * b,
    ),
    Mistake(
        "bias taken back once",
        "Every shard adds b, the reduction adds n of them, and one is subtracted again: with more than 2 shards y is "
        "off by (n - 2) b.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + b) - b,
    ),
    Mistake(
        "half the bias",
        "n times b / 2 is b on 2 shards only.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + b / 2),
    ),
    Mistake(
        "bias reduced",
        "b is whole on every shard already: an all_reduce of it adds n equal copies.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + mesh.all_reduce(b),
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + mesh.all_reduce(b)),
    ),
    Mistake(
        "bias weighted by the rank",
        "b is multiplied by a number that depends on the rank.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + mesh.rank * b,
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + (mesh.rank + 1) * b,
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + mesh.rank * b),
        lambda mesh, X, W, b: mesh.all_reduce(X @ W + (mesh.rank + 1) * b),
    ),
    Mistake(
        "bias within the product",
        "b is added to what goes into the product, and X @ (W + b) is not X @ W + b.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ (W + b)),
    ),
    Mistake(
        "bias multiplied",
        "The product is multiplied by b, and b is to be added.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) * b,
    ),
    Mistake(
        "bias after the reduction on one shard",
        "The reduction is over, so what one shard adds now the others never see: y differs from shard to shard.",
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + on_shard(mesh, 0, b),
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + on_shard(mesh, mesh.size - 1, b),
    ),
    *mistakes.of_a_sum(
        (lambda mesh, X, W, b: X @ W, lambda y_, X, W, b: y_ + b),
        (lambda mesh, X, W, b: X @ W + b, lambda y_, X, W, b: y_),
        (lambda mesh, X, W, b: X @ W + b / mesh.size, lambda y_, X, W, b: y_),
        (lambda mesh, X, W, b: X @ W, lambda y_, X, W, b: y_),
    ),
    mistakes.baseline(
        lambda mesh, X, W, b: mesh.all_gather(X, dim=1) @ mesh.all_gather(W, dim=0) + b,
    ),
    mistakes.reduced_again(
        lambda mesh, X, W, b: mesh.copy(mesh.all_reduce(X @ W) + b),
        lambda mesh, X, W, b: mesh.copy(mesh.all_reduce(X @ W)) + b,
        lambda mesh, X, W, b: mesh.all_reduce(mesh.copy(X @ W)) + b,
        lambda mesh, X, W, b: mesh.all_reduce(X @ W) + mesh.copy(b),
    ),
]

reduce_then_activate = Split(
    "reduce_then_activate",
    "y = gelu(X @ W) with W cut by rows. Every shard ends with all of y.",
    given={"X": ("B K", "by columns"), "W": ("K N", "by rows")},
    wanted="y: [B, N], the same on every shard",
    sizes=row_sizes,
    dense=lambda n, X, W: gelu(X @ W),
    right=lambda mesh, X, W: gelu(mesh.all_reduce(X @ W)),
    mistakes=ACTIVATE_MISTAKES,
)

row_bias = Split(
    "row_bias",
    "y = X @ W + b with W cut by rows, and b on every shard. b counts once.",
    given={"X": ("B K", "by columns"), "W": ("K N", "by rows"), "b": ("N", "replicated")},
    wanted="y: [B, N], the same on every shard",
    sizes=row_sizes,
    dense=lambda n, X, W, b: X @ W + b,
    right=lambda mesh, X, W, b: mesh.all_reduce(X @ W) + b,
    mistakes=BIAS_MISTAKES,
)

FUNCTIONS = {
    "identity": lambda x: x,
    "double": lambda x: 2 * x,
    "negate": lambda x: -x,
    "plus one": lambda x: x + 1,
    "abs": torch.abs,
    "square": torch.square,
    "relu": F.relu,
    "leaky relu": F.leaky_relu,
    "gelu": gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class Exempt(Exercise):
    """Which functions may come before the reduction? The truth is found by running them."""

    takes = ("names",)
    mistakes = [
        Mistake("affine is not linear", "The constant is added once on every shard, so the sum holds n of them."),
        Mistake(
            "piecewise linear is not linear",
            "It is a straight line on either side of 0, so it adds up only while a and b have the same sign.",
        ),
        Mistake("curved is not linear", "Its graph bends, so f(a) + f(b) is not f(a + b)."),
        Mistake("a linear one is missing", "Some that are left out keep sums, too: try f(a) + f(b) on each."),
    ]

    def __init__(self):
        given = [f"exercises.FUNCTIONS, elementwise functions by name: {', '.join(FUNCTIONS)}"]
        wanted = "the set of the names for which f(a) + f(b) = f(a + b), for all a and b"
        super().__init__("exempt", "Which functions may be applied before the reduction?", given, wanted)

    def signature(self):
        return "{…}"

    def unsolved(self, answer=None):
        example = "exercises.exempt.check({'gelu'})"
        return Wrong(UNSOLVED, f"Put names of exercises.FUNCTIONS into the set, as in {example}, and check again.")

    def inspect(self, answer):
        names = self.names_in(answer)
        a, b = torch.randn(2, 100, generator=seeded(), dtype=torch.float64, device="cpu") * 3
        kinds = {name: kind(function, a, b) for name, function in FUNCTIONS.items()}
        known = {mistake.name: mistake.why for mistake in self.mistakes}
        for name in FUNCTIONS:  # in their order, so that the same set is told the same thing
            if name in names and kinds[name] != "linear":
                mistake = f"{kinds[name]} is not linear"
                raise Wrong(mistake, f"{name!r}: {known[mistake]} {counterexample(FUNCTIONS[name], a, b)}")
        missing = [name for name in FUNCTIONS if kinds[name] == "linear" and name not in names]
        if missing:
            name, why = "a linear one is missing", known["a linear one is missing"]
            some = "1 is" if len(missing) == 1 else f"{len(missing)} are"
            raise Wrong(name, f"All that you name are exempt, but {some} missing. {why}")
        return f"Right: of these {len(FUNCTIONS)} functions only {', '.join(sorted(names))} keep sums."

    def names_in(self, answer):
        if answer is None or answer is Ellipsis:
            raise self.unsolved()
        if isinstance(answer, str) or not isinstance(answer, (set, frozenset, list, tuple, dict)):
            raise Wrong("not a set", f"The check wants a set of names, such as {{'gelu'}}, and got {a_kind(answer)}.")
        names = [name for name in answer if name is not Ellipsis]
        if not names:
            raise self.unsolved()
        for name in names:
            if not isinstance(name, str):
                raise Wrong("not a set", f"The set holds {a_kind(name)}, and names are wanted, such as 'gelu'.")
            if name not in FUNCTIONS:
                near = [f"Did you mean {each!r}? " for each in get_close_matches(name.lower(), FUNCTIONS, n=1)]
                raise Wrong("unknown name", f"{''.join(near)}{name!r} is none of {', '.join(FUNCTIONS)}.")
        return set(names)


def kind(function, a, b):
    """How a function treats sums: linear, affine (but for a constant), piecewise linear (f(2a) = 2 f(a)) or curved."""
    zero = function(torch.zeros_like(a))
    if torch.allclose(function(a) + function(b), function(a + b)):
        return "linear"
    if torch.allclose(function(a) + function(b), function(a + b) + zero):
        return "affine"
    return "piecewise linear" if torch.allclose(function(2 * a), 2 * function(a)) else "curved"


def counterexample(function, a, b):
    gap = (function(a) + function(b) - function(a + b)).abs()
    a, b = (round(x[gap.argmax()].item(), 1) for x in (a, b))
    f = [function(torch.tensor(x, dtype=torch.float64)).item() for x in (a, b, a + b)]
    return f"For a = {a} and b = {b}: f(a) + f(b) = {f[0] + f[1]:.4g}, and f(a + b) = {f[2]:.4g}."


exempt = Exempt()
