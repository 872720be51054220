"""Lesson 03: a tolerance that passes right code and fails wrong code."""

from dataclasses import dataclass
from numbers import Real

import numpy
import torch

from shardlab.exercises.exercise import Exercise, Mistake, Wrong, brief_error, seeded
from shardlab.exercises.habits import habit
from shardlab.exercises.limits import run
from shardlab.exercises.verdict import a_kind

FLOAT64_FOR_FLOAT32 = 2.0**29  # how much finer float64 rounds


@dataclass
class Trial:
    """One product in float64, some right ways to have it in float32, and some wrong results."""

    what: str
    X: torch.Tensor
    W: torch.Tensor
    n: int
    exact: torch.Tensor
    right: list
    wrong: dict


class Tolerance(Exercise):
    """How far may a right split be from the exact product? A tolerance is held against right and wrong results."""

    takes = ("X", "W", "n")
    mistakes = [
        Mistake(
            "a fixed number",
            "It knows nothing of X and W: the error grows with K and with the magnitudes, so that one number "
            "is too tight for large ones or too loose for small ones.",
        ),
        Mistake(
            "relative to |y|",
            "Where a sum cancels, y is near 0 and its error is not: that comes from the terms: how large are they?",
        ),
        Mistake(
            "float64's eps",
            "The split is computed in float32, whose unit roundoff is 2**-24; this one is of float64.",
        ),
        Mistake(
            "does not grow with K",
            "It grows with the terms, but not with their number: K roundings add up.",
        ),
        Mistake(
            "does not grow with the numbers",
            "Rounding is relative: where the numbers are larger, its errors are larger by as much.",
        ),
        Mistake(
            "shrinks with n",
            "However many partial sums there are, K products are added, with about as many roundings.",
        ),
        Mistake(
            "16 bits' u",
            "The split is computed in float32, whose unit roundoff is 2**-24; this one is of a type with 16 bits.",
        ),
        Mistake("negative", "An error has no sign here: it is held against the tolerance by its size."),
        Mistake("too tight", "A right split is rejected."),
        Mistake("too loose", "A wrong result passes."),
    ]

    def __init__(self):
        super().__init__(
            "tolerance",
            "How far may X @ W, computed in float32 as n partial sums, be from the exact product?",
            given=["X: [B, K], W: [K, N], plain float32 tensors", "n: the number of partial sums"],
            wanted="a number, or a tensor [B, N] with one for each element: right splits stay within it, "
            "wrong ones (a shard dropped or swapped, a bias too many, 0.1 % off) do not",
        )

    def inspect(self, answer):
        self.callable(answer)
        trials = make_trials(seeded())
        tolerances = [self.ask(answer, trial) for trial in trials]
        found = judge(trials, tolerances)
        if found is None:
            rights, wrongs = (sum(len(group) for group in groups) for groups in zip(*map(counted, trials), strict=True))
            return f"Right: all of {rights} right results pass, and all of {wrongs} wrong ones fail."
        side, numbers = found
        name, more = side, ""
        if side == "too tight" and judge(trials, [tol * FLOAT64_FOR_FLOAT32 for tol in tolerances]) is None:
            name = "float64's eps"
        else:
            name, more = habit(side, trials, tolerances, lambda trial: self.ask(answer, trial)) or (side, "")
        why = next(mistake.why for mistake in self.mistakes if mistake.name == name)
        raise Wrong(name, f"{why} {more}{numbers}")

    def ask(self, answer, trial):
        """The answer's tolerance for one trial, as a float64 tensor of the shape of y."""
        X, W = trial.X.clone(), trial.W.clone()
        try:
            tol = run(answer, X, W, trial.n)
        except (KeyboardInterrupt, Wrong):
            raise
        except NotImplementedError as error:
            raise self.unsolved(answer) from error
        except BaseException as error:
            raise Wrong("an error", f"With {trial.what} it ends in {brief_error(error)}") from error
        if tol is None or tol is Ellipsis:
            raise self.unsolved(answer)
        if not (torch.equal(X, trial.X) and torch.equal(W, trial.W)):
            raise Wrong("arguments changed", "X or W was changed in place: make a new value.")
        if isinstance(tol, numpy.ndarray) and tol.dtype.kind in "fiu":
            tol = torch.from_numpy(tol.copy())
        if isinstance(tol, bool) or not isinstance(tol, (Real, torch.Tensor)):
            raise Wrong("not a tolerance", f"A number or a tensor is wanted, and this is {a_kind(tol)}.")
        if isinstance(tol, torch.Tensor) and (
            tol.is_complex() or tol.dtype == torch.bool or not fits(tol, trial.exact)
        ):
            shapes = f"{list(tol.shape)}, {tol.dtype}, where y is {list(trial.exact.shape)}"
            raise Wrong("not a tolerance", f"The tensor does not fit y: it is {shapes}.")
        tol = torch.as_tensor(tol, device="cpu").detach().double().expand(trial.exact.shape)
        if tol.isnan().any():
            raise Wrong("not a number", f"With {trial.what} the tolerance holds nan.")
        return tol


def fits(tol, y):
    try:
        return torch.broadcast_shapes(tol.shape, y.shape) == y.shape
    except RuntimeError:
        return False


def counted(trial):
    return trial.right, trial.wrong


def judge(trials, tolerances):
    """None for a good tolerance, else ('too tight' or 'too loose', the numbers)."""
    for trial, tol in zip(trials, tolerances, strict=True):
        for y in trial.right:
            error = (y.double() - trial.exact).abs()
            if (error > tol).any():
                at = (error - tol).argmax()
                index = [int(i) for i in torch.unravel_index(at, error.shape)]
                here = (
                    f"off by {error.flatten()[at]:.2g} at {index}, and the tolerance there is {tol.flatten()[at]:.2g}"
                )
                return "too tight", f"With {trial.what} a right result is {here}."
    for trial, tol in zip(trials, tolerances, strict=True):
        for what, y in trial.wrong.items():
            error = (y.double() - trial.exact).abs()
            if (error <= tol).all():
                here = f"off by up to {error.max():.2g} and never leaves the tolerance, {tol.max():.2g} at most"
                return "too loose", f"With {trial.what} the result with {what} is {here}."
    return None


def make_trials(random):
    """Fresh products: many terms and few, large and small ones, of one sign, and such that y nearly cancels."""

    def normal(*shape):
        return torch.randn(shape, generator=random, device="cpu")

    def uniform(*shape):
        return torch.rand(shape, generator=random, device="cpu")

    trials = []
    for n in range(2, 9, 2):
        for K in (64, 256, 1024):
            trials.append(trial(f"K = {K} and n = {n}", normal(4, K), normal(K, 6), n, normal(6)))
    trials.append(trial("K = 256, n = 3 and terms of one sign", uniform(4, 256), uniform(256, 6), 3, normal(6)))
    trials.append(trial("K = 1024, n = 4 and W in the ten thousands", normal(4, 1024), 1e4 * normal(1024, 6), 4))
    trials.append(trial("K = 64, n = 4 and X near 0.000001", 1e-6 * normal(4, 64), normal(64, 6), 4))
    trials.append(trial("K = 512, n = 2 and a sum that nearly cancels", *cancelling(normal, 512), 2))
    many = trial("K = 2048, n = 1 and terms of one sign", uniform(4, 2048), uniform(2048, 6), 1)
    return [*trials, Trial(many.what, many.X, many.W, 1, many.exact, [*many.right, one_by_one(many.X, many.W)], {})]


def cancelling(normal, K):
    """X and W whose second half takes away nearly all that the first half adds."""
    x, w = normal(4, K // 2), normal(K // 2, 6)
    return torch.cat([x, 2 * x], 1), torch.cat([w, -w / 2 + 1e-6 * normal(K // 2, 6)], 0)


def trial(what, X, W, n, b=None):
    """Right: the partial sums added up from either end, and the product whole. Wrong: whatever a bug makes of them."""
    exact = X.double() @ W.double()
    xs, ws = X.tensor_split(n, 1), W.tensor_split(n, 0)
    partials = [x @ w for x, w in zip(xs, ws, strict=True)]
    y = sum(partials)
    wrong = {}
    if n > 1:
        wrong["a shard dropped"] = sum(partials[1:])
        if X.shape[1] % n == 0:
            wrong["two shards swapped"] = sum(x @ w for x, w in zip([xs[1], xs[0], *xs[2:]], ws, strict=True))
    if b is not None:
        wrong["the bias once too often"] = y + b
        if X.shape[1] <= 256:
            wrong["every element 0.1 % too large"] = y * 1.001
    return Trial(what, X, W, n, exact, [y, sum(reversed(partials)), X @ W], wrong)


def one_by_one(X, W):
    """The plainest matrix product: one term after the other into one float32 sum."""
    y = torch.zeros(X.shape[0], W.shape[1], device="cpu")
    for term in (X.T[:, :, None] * W[:, None, :]).unbind(0):
        y += term
    return y


tolerance = Tolerance()
