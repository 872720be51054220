"""Lab 03: the errors of a right split and of two wrong ones, and tolerances between: ours, torch's, one of your own."""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch

from shardlab import Mesh
from shardlab.compare import dense, errors
from shardlab.labs.lab import HTML, Lab, beside, menu, said, steps
from shardlab.labs.lab01_split import seed_data
from shardlab.pictures.strips import Cloud, strips

ROWS, COLUMNS = 16, 16
DEFAULTS = {  # rtol and atol of torch.testing.assert_close, which looks them up by dtype
    "float32": (1.3e-6, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float16": (1e-3, 1e-5),
    "float64": (1e-7, 1e-7),
}
KS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
SHARDS = [1, 2, 4, 8, 16, 32, 64]
ORDERS = ["rank", "reversed", "pairwise"]
ADDED_IN = [("rank order", "rank"), ("reversed order", "reversed"), ("pairs", "pairwise")]
SPLITS = ["right", "a shard missing", "a shard 1 % off"]
LINES = [("none", 0.0), *((f"1e{power:+03d}", 10.0**power) for power in range(-17, 4))]


@dataclass(frozen=True)
class Rounding:
    """Each entry of the split's result: `exact` (float64), how far off it is, and how far each tolerance lets it be."""

    exact: torch.Tensor
    error: torch.Tensor
    allowed: torch.Tensor
    default: torch.Tensor
    passed: bool  # by our tolerance, and by our bound on the root mean square

    @property
    def rejected(self):
        """How many entries torch's default tolerance rejects."""
        return (self.error > self.default).sum().item()

    @property
    def reach(self):
        """The worst error, as a share of what our tolerance allows there."""
        return (self.error / self.allowed).max().item()

    @property
    def mean_reach(self):
        """The root mean square of the errors, as a share of what we allow it to be."""
        return (self.error.square().mean() / self.allowed.square().mean()).sqrt().item() / 0.75


@cache
def data(K, dtype):
    return tuple(tensor.to(getattr(torch, dtype)) for tensor in seed_data(ROWS, K, COLUMNS))


@lru_cache(maxsize=256)
def exact_and_allowed(K, dtype, shards):
    return dense(*data(K, dtype), parts=shards)


@lru_cache(maxsize=256)
def partial_sums(K, dtype, shards):
    (X, W), mesh = data(K, dtype), Mesh(shards)
    return [part.cpu() for part in (mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)).shards]


def added(parts, order):
    """The partial sums added up: in rank order, from the last to the first, or in pairs and pairs of pairs."""
    parts = parts[::-1] if order == "reversed" else parts
    while order == "pairwise" and len(parts) > 1:
        parts = [sum(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return sum(parts)


@lru_cache(maxsize=256)
def tolerance_result(dtype="float32", K=1024, shards=4, order="rank", answer="right"):
    """A row split of X [16, K] @ W [K, 16] (unit variance, the seed's numbers), held against float64.

    `order` is how the partial sums are added: "rank", "reversed" or "pairwise". `answer` is "right", or the mistake
    that a tolerance has to catch: "a shard missing", "a shard 1 % off".
    """
    (exact, allowed), parts = exact_and_allowed(K, dtype, shards), [*partial_sums(K, dtype, shards)]
    if answer == "a shard missing":
        parts[-1] = torch.zeros_like(parts[-1])
    if answer == "a shard 1 % off":
        parts[-1] = parts[-1] * 1.01
    y = added(parts, order)
    rtol, atol = DEFAULTS[dtype]
    passed = errors("result", y, exact, allowed).passed
    return Rounding(exact, (y.double() - exact).abs(), allowed, atol + rtol * exact.abs(), passed)


def draw_tolerance(dtype, K, shards, order, line):
    """The picture of a state of this lab, as HTML."""
    ran = {answer: tolerance_result(dtype, K, shards, order, answer) for answer in SPLITS}
    right, lost, off = ran.values()
    clouds = [
        Cloud("right", "right", right.error.flatten().tolist()),
        Cloud("1 % off", "off", off.error.flatten().tolist()),
        Cloud("lost", "lost", lost.error.flatten().tolist()),
    ]
    picture = strips(clouds, ends(right.allowed), ends(right.default), line or None)
    verdicts = (yours(ran, line) if line else "") + ours(ran) + torchs(ran, dtype)
    return beside(picture, verdicts)  # so that the picture stays where it is


def ends(limits):
    return limits.min().item(), limits.max().item()


def judged(passes):
    """Whether a tolerance is right about all three, and what it does with each, in words."""
    does = {True: "passes", False: "rejects"}
    right, lost, off = (passes[answer] for answer in SPLITS)
    if right == lost == off:
        return False, f"{does[right]} all three."
    wrong = f"{does[lost]} both wrong ones" if lost == off else f"{does[lost]} the lost shard, {does[off]} the 1 %"
    return right and not lost and not off, f"{does[right]} the right split, {wrong}."


def yours(ran, line):
    good, does = judged({answer: result.error.max().item() <= line for answer, result in ran.items()})
    return said(good, f"Your line, {line:g}, {does}", "")


def ours(ran):
    good, does = judged({answer: result.passed for answer, result in ran.items()})
    more = f"The worst entry of the right one is off by {share(ran['right'].reach)} of what it is allowed."
    if ran[SPLITS[2]].passed:
        off = ran[SPLITS[2]]
        more += f" With a shard 1 % off, it is {share(off.reach)}, and the root mean square is {share(off.mean_reach)}."
    return said(good, f"Our tolerance {does}", more)


def share(part):
    """A part of what is allowed, in words.

    >>> [share(part) for part in (0.0004, 0.03, 0.4, 0.8)]
    ['less than a thousandth', 'less than a tenth', 'less than half', 'more than half']
    """
    shares = {0.001: "less than a thousandth", 0.01: "less than a hundredth", 0.1: "less than a tenth"}
    shares |= {0.5: "less than half", 1: "more than half"}
    return next(words for most, words in shares.items() if part <= most)


def torchs(ran, dtype):
    rtol, atol = DEFAULTS[dtype]
    good, does = judged({answer: not result.rejected for answer, result in ran.items()})
    many, entries = ran["right"].rejected, ran["right"].error.numel()
    more = f"An entry may be off by {atol:g} + {rtol:g} · |y|"
    more += f": too little for {many} of the {entries} of the right split." if many else "."
    return said(good, f"torch's default {does}", more)


def tolerance_picture(dtype="float32", K=1024, shards=4, order="rank", line=0.0):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_tolerance(dtype, K, shards, order, line))


def tolerance(dtype="float32", K=1024, shards=4, order="rank", line=0.0):
    """The lab of lesson 03: put a line between a right split and two wrong ones, beside ours and torch's."""
    controls = {
        "line": steps("your line", line, LINES, "how far off every entry may be"),
        "dtype": menu("dtype", dtype, list(DEFAULTS), "the type of every number"),
        "K": steps("K", K, KS, "how many products each entry of Y sums up"),
        "shards": steps("shards", shards, SHARDS, "how many partial sums there are"),
        "order": menu("added in", order, ADDED_IN, "the order in which the partial sums are added"),
    }
    return Lab(controls, draw_tolerance)
