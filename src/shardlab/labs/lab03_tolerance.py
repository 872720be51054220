"""Lab 03: the errors of a right split (or a wrong one), under our tolerance and torch's default."""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch

from shardlab import Mesh
from shardlab.compare import dense, errors
from shardlab.labs.lab import HTML, Lab, menu, said, steps
from shardlab.labs.lab01_split import seed_data
from shardlab.pictures.dots import dots

ROWS, COLUMNS = 16, 32
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


@cache
def data(K, dtype):
    return tuple(tensor.to(getattr(torch, dtype)) for tensor in seed_data(ROWS, K, COLUMNS))


@lru_cache(maxsize=256)
def exact_and_allowed(K, dtype, shards):
    return dense(*data(K, dtype), parts=shards)


def added(parts, order):
    """The partial sums added up: in rank order, from the last to the first, or in pairs and pairs of pairs."""
    parts = parts[::-1] if order == "reversed" else parts
    while order == "pairwise" and len(parts) > 1:
        parts = [sum(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return sum(parts)


@lru_cache(maxsize=256)
def tolerance_result(dtype="float32", K=1024, shards=4, order="rank", answer="right"):
    """A row split of X [16, K] @ W [K, 32] (unit variance, the seed's numbers), held against float64.

    `order` is how the partial sums are added: "rank", "reversed" or "pairwise". `answer` is "right", or the mistake
    that a tolerance has to catch: "a shard missing", "a shard 1 % off".
    """
    (X, W), (exact, allowed) = data(K, dtype), exact_and_allowed(K, dtype, shards)
    mesh = Mesh(shards)
    parts = [part.cpu() for part in (mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)).shards]
    if answer == "a shard missing":
        parts[-1] = torch.zeros_like(parts[-1])
    if answer == "a shard 1 % off":
        parts[-1] = parts[-1] * 1.01
    y = added(parts, order)
    rtol, atol = DEFAULTS[dtype]
    passed = errors("result", y, exact, allowed).passed
    return Rounding(exact, (y.double() - exact).abs(), allowed, atol + rtol * exact.abs(), passed)


def draw_tolerance(dtype, K, shards, order, answer):
    """The picture of a state of this lab, as HTML."""
    ran = tolerance_result(dtype, K, shards, order, answer)
    figures = [tensor.flatten().tolist() for tensor in (ran.exact.abs(), ran.error, ran.allowed, ran.default)]
    return ours(ran, answer == "right") + torchs(ran, dtype, answer == "right") + dots(*figures)


def ours(ran, right):
    passed = ran.passed
    verdict = "Our tolerance passes it." if passed else "Our tolerance rejects it."
    shares = {0.01: "less than a hundredth", 0.1: "less than a tenth", 0.5: "less than half", 1: "more than half"}
    share = next((words for share, words in shares.items() if ran.reach <= share), f"{ran.reach:.0f} times")
    worst = f"The worst entry is off by {share} of what it is allowed."
    if passed and not right:
        worst += " The mistake hides below the rounding of this dtype: no tolerance can see it here."
    return said(passed == right, verdict, worst)


def torchs(ran, dtype, right):
    rtol, atol = DEFAULTS[dtype]
    passed = not ran.rejected
    verdict = "torch's default passes it." if passed else "torch's default rejects it."
    more = f"{ran.rejected:,} of {ran.error.numel():,} entries are off by more than {atol:g} + {rtol:g} · |y|."
    if passed != right:
        more += " But the split is right." if right else " But the split is wrong."
    return said(passed == right, verdict, more)


def tolerance_picture(dtype="float32", K=1024, shards=4, order="rank", answer="right"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_tolerance(dtype, K, shards, order, answer))


def tolerance(dtype="float32", K=1024, shards=4, order="rank", answer="right"):
    """The lab of lesson 03: what rounding does to a row split, and which tolerance knows it from a mistake."""
    controls = {
        "dtype": menu("dtype", dtype, list(DEFAULTS), "the type of every number"),
        "K": steps("K", K, KS, "how many products each entry of Y sums up"),
        "shards": steps("shards", shards, SHARDS, "how many partial sums there are"),
        "order": menu("added in", order, ADDED_IN, "the order in which the partial sums are added"),
        "answer": menu("the split is", answer, SPLITS, "right, or one of the mistakes that a tolerance has to catch"),
    }
    return Lab(controls, draw_tolerance)
