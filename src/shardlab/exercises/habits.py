"""What a tolerance that fails depends on: seen in its numbers, and by asking for it again with other inputs."""

from dataclasses import replace

import torch

from shardlab.exercises.exercise import Wrong

UNITS = {2.0**16: "bfloat16", 2.0**13: "float16"}  # unit roundoffs, as multiples of float32's


def habit(side, trials, tolerances, ask):
    """What a tolerance that fails depends on: (name of the mistake, more of it); None if on nothing that is known.
    `ask(trial)` is the tolerance for another trial."""
    name = form(trials, tolerances)
    if name:
        return name, ""
    trial = trials[len(trials) // 3]  # neither the smallest nor a special one
    try:
        return probed(side, trial, ask)
    except Wrong:
        return None  # it takes no other inputs than its own


def form(trials, tolerances):
    """The name of the mistake that shows in the tolerances as they are; None if none does."""
    everywhere = torch.cat([tol.flatten() for tol in tolerances])
    if (everywhere < 0).any():
        return "negative"
    if constant(everywhere):
        return "a fixed number"
    y = torch.cat([trial.exact.flatten().abs() for trial in trials])
    size = torch.cat([terms(trial).flatten() for trial in trials])
    sure = (y > 0.01 * size) & (everywhere > 0)  # where y does not cancel, so that float32 has it right, too
    if not sure.any():
        return None
    line = torch.stack([torch.ones_like(y), y], 1)[sure] / everywhere[sure, None]
    fit = torch.linalg.lstsq(line, torch.ones_like(line[:, :1])).solution
    if (line @ fit - 1).abs().max() < 1e-2 and fit[1] > 0:  # tol = a + b|y|
        return "relative to |y|"
    return None


def constant(values):
    return bool((values.max() - values.min()).abs() <= 1e-4 * values.abs().max())


def terms(trial):
    """|X| @ |W|: how large the terms of each sum are, whatever y is."""
    return trial.X.double().abs() @ trial.W.double().abs()


def probed(side, trial, ask):
    """The same tolerance for X with other signs, a larger X, more terms, more shards: what changes, and how much?"""
    X, W, n = trial.X, trial.W, trial.n
    before = ask(trial)
    if not (before > 0).all():
        return None

    def times(**other):
        return (ask(replace(trial, **other)) / before).mean().item()

    if any((ask(replace(trial, X=other_signs(X, every))) / before - 1).abs().max() > 0.01 for every in (2, 3, 5, 7)):
        return "relative to |y|", "With other signs in X it is another one, as y is. "
    for name, larger in (("X", {"X": 1024 * X}), ("W", {"W": 1024 * W})):
        if times(**larger) < 2:
            return "does not grow with the numbers", f"For 1024 {name} it is no larger than for {name}. "
    longer = times(X=torch.cat([X, X], 1), W=torch.cat([W, W], 0))
    if side == "too tight" and longer < 2.5:
        says = (
            f"With twice as many terms it is {longer:.2g} times as large: twice for the terms, and √2 for the roundings"
        )
        return "does not grow with K", f"{says}, make 2.8. "
    if side == "too tight" and times(n=4 * n) < 0.9:
        return "shrinks with n", f"With {4 * n} partial sums instead of {n} it is {times(n=4 * n):.2g} times as large. "
    ours = before / (4 * X.shape[1] ** 0.5 * 2.0**-24 * terms(trial))
    if not constant(ours):
        return None
    factor = ours.mean().item()
    for unit, dtype in UNITS.items():
        if 0.2 <= factor / unit <= 3:
            return "16 bits' u", f"It looks like {dtype}'s. "
    return side, f"It is {factor:.2g} times 4 √K u (|X| |W|). "


def other_signs(X, every):
    """X with the signs of some columns changed, which leaves |X| |W| as it is, and X W not."""
    signs = torch.ones_like(X)
    signs[:, ::every] = -1
    return X * signs
