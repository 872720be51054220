"""Lesson 06, third part: of what kind is each value of a layer, and its gradient? The check measures."""

import re

import torch
from torch.nn.functional import gelu

from shardlab.compare import kind
from shardlab.exercises.exercise import Exercise, Wrong, seeded
from shardlab.exercises.verdict import a_kind
from shardlab.exercises.watch import Here
from shardlab.exercises.world import from_rank_0

CODE = ["x = mesh.copy(X)", "h = x @ W1 + b1", "p = gelu(h) @ W2", "y = mesh.all_reduce(p)", "z = X + y + b2"]
PLACED = {"X": None, "W1": 1, "b1": 0, "W2": 0, "b2": None}  # the dim along which it is cut
VALUES, GRADS = ["x", "h", "p", "y", "z"], ["dz", "dy", "dp", "dh", "dx", "dX", "dW1", "db1", "dW2", "db2"]
KINDS = ["replicated", "cut along dim 0", "cut along dim 1", "partial"]
SYNONYMS = {"by rows": "cut along dim 0", "by columns": "cut along dim 1"}
WHY = {
    "x": "Forward, mesh.copy does nothing: every shard still has all of X.",
    "h": "Each shard has its own columns of W1 and of b1, and makes its own columns of h.",
    "p": "Each shard has its own columns of gelu(h), and the rows of W2 that they meet: a part of every sum.",
    "y": "The all-reduce gives the sum to every shard.",
    "z": "X, y and b2 are whole on every shard, and so is what each makes of them.",
    "dz": "Every shard has all of z, and goes on to the same loss.",
    "dy": "z = X + y + b2, so the gradient of y is that of z: whole on every shard.",
    "dp": "The backward of mesh.all_reduce is the identity: each part of a sum has the gradient of the sum.",
    "dh": "A shard's columns of h meet its own rows of W2 and nothing else: it has all of their gradient.",
    "dx": "x goes into the columns of all shards, and each sends back what comes through its own: a part of a sum.",
    "dX": "mesh.copy adds the parts in its backward, and dz, which comes by the short cut, is whole.",
    "dW1": "A shard has all of the gradient of its own columns of W1.",
    "db1": "b1 is cut along its only dim, dim 0, and each shard has all of the gradient of its own piece.",
    "dW2": "A shard has all of the gradient of its own rows of W2.",
    "db2": "b2 comes after the all-reduce, where everything is whole on every shard.",
}
MISTAKES = {  # (what was said, what it is): the mistake, of a value and of a gradient
    ("replicated", "partial"): ("a partial sum taken for whole", "a partial gradient taken for whole"),
    ("partial", "replicated"): ("a whole value taken for partial", "a whole gradient taken for partial"),
    ("cut", "cut"): ("cut along the other dim", "cut along the other dim"),
    ("replicated", "cut"): ("a cut value taken for whole", "a cut gradient taken for whole"),
    ("partial", "cut"): ("a cut value taken for partial", "a cut gradient taken for partial"),
    ("cut", "replicated"): ("a whole value taken for cut", "a whole gradient taken for cut"),
    ("cut", "partial"): ("a partial sum taken for cut", "a partial gradient taken for cut"),
}


def layer(mesh, X, W1, b1, W2, b2):
    """The layer of `CODE`, each value by its name."""
    x = mesh.copy(X)
    h = x @ W1 + b1
    p = gelu(h) @ W2
    y = mesh.all_reduce(p)
    z = X + y + b2
    return {"x": x, "h": h, "p": p, "y": y, "z": z}


class Dense:
    """One device, which has all there is."""

    copy = all_reduce = staticmethod(lambda x: x.clone())


def measured(n, integer, random):
    """The kind of every value and gradient of a fresh layer on n shards, each held against the dense one."""
    B, D, F = integer(2, 4), n * integer(2, 3), n * integer(4, 5)
    shapes = {"X": (B, D), "W1": (D, F), "b1": (F,), "W2": (F, D), "b2": (D,)}
    dense = {name: torch.randn(shape, generator=random, dtype=torch.float64) for name, shape in shapes.items()}
    dense = {name: tensor.requires_grad_() for name, tensor in dense.items()}
    mesh = Here(n, devices=["cpu"])
    split = {
        name: mesh.replicate(tensor) if PLACED[name] is None else mesh.shard(tensor, dim=PLACED[name])
        for name, tensor in dense.items()
    }
    dz = torch.randn(B, D, generator=random, dtype=torch.float64)
    for inputs, on, gradient in ((dense, Dense, dz), (split, mesh, mesh.replicate(dz))):
        inputs |= layer(on, *inputs.values())
        for name in VALUES:
            inputs[name].retain_grad()
        inputs["z"].backward(gradient)
    found = {name: kind(split[name], dense[name]).name for name in VALUES}
    return found | {name: kind(split[name[1:]].grad, dense[name[1:]].grad).name for name in GRADS}


class Kinds(Exercise):
    """A dict from the name of each value and gradient of a layer to its kind, held against what is measured."""

    takes = ()

    def __init__(self):
        given = [*CODE, "X and b2 replicated; W1 by columns and b1 with them; W2 by rows; dz is the gradient of z"]
        wanted = f"a dict of {', '.join(VALUES + GRADS)}: each {', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}"
        task = "Name the kind of each value of this layer and of each gradient."
        super().__init__("kinds", task, given, wanted)

    def signature(self):
        return self.name

    def inspect(self, answer):
        if callable(answer):  # a function that makes the dict does as well
            answer = answer()
        if answer is None or answer is Ellipsis or isinstance(answer, dict) and all(v is ... for v in answer.values()):
            raise Wrong("not solved yet", "Write one kind for each name, and run the cell again.")
        if not isinstance(answer, dict):
            raise Wrong("not a dict", f"The answer is {a_kind(answer)}, and a dict from names to kinds is wanted.")
        said = {str(name): understood(name, word) for name, word in answer.items()}
        if unknown := [name for name in said if name not in WHY]:
            raise Wrong("an unknown name", f"There is no {unknown[0]} here: the names are {', '.join(WHY)}.")
        if missing := [name for name in WHY if said.get(name, "") == ""]:
            raise Wrong("names missing", f"Not named yet: {', '.join(missing)}.")
        if found := from_rank_0(lambda: first_wrong(said)):
            raise Wrong(*found)
        return f"Right: {len(WHY)} kinds, as measured on 2, 3 and 4 shards."


def understood(name, word):
    """One of the KINDS, or "" where nothing is said yet."""
    if word is ... or word is None:
        return ""
    plain = " ".join(re.sub(r"[,_=]", " ", str(word).lower()).split())
    plain = re.sub(r"^cut (along )?(dim )?(?=[01]$)", "cut along dim ", SYNONYMS.get(plain, plain))
    if plain not in KINDS:
        raise Wrong("an unknown kind", f"{name} is said to be {word!r}, and the kinds are {', '.join(KINDS)}.")
    return plain


def first_wrong(said):
    """(mistake, message) of the first name whose kind is another one, or None."""
    random = seeded()

    def integer(low, high):
        return torch.randint(low, high + 1, (), generator=random).item()

    for n in (3, 2, 4):
        found = measured(n, integer, random)
        wrong = [name for name in WHY if said[name] != found[name]]
        if wrong:
            name = wrong[0]
            pair = said[name].split()[0], found[name].split()[0]
            more = f" And {len(wrong) - 1} more: {', '.join(wrong[1:])}." if wrong[1:] else ""
            reason = f"{name} is {found[name]}, measured on {n} shards, and you say {said[name]}. {WHY[name]}{more}"
            return MISTAKES[pair][name[0] == "d"], reason
    return None


kinds = Kinds()
