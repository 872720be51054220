"""Lesson 00: where shards live, and one line in which the rank matters."""

import torch

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Exercise, Mistake, Wrong, brief_error, seeded
from shardlab.exercises.limits import run
from shardlab.exercises.real_ranks import try_on_ranks
from shardlab.exercises.split import Split
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.watch import WatchedMesh
from shardlab.exercises.world import world
from shardlab.shards import Shards

SUM_MISTAKES = [
    Mistake(
        "ranks from 0",
        "Ranks count from 0: the weights wanted are 1, 2, …, n, and these are others.",
        lambda mesh, X: mesh.all_reduce(mesh.rank * X),
        lambda mesh, X: mesh.all_reduce((mesh.rank + 2) * X),
    ),
    Mistake(
        "no weights",
        "Every shard adds the same X: the line does not depend on the rank yet. See mesh.rank.",
        lambda mesh, X: mesh.all_reduce(X),
        lambda mesh, X: mesh.all_reduce(X * mesh.size),
    ),
    Mistake(
        "weights after the sum",
        "The weight comes after the reduction, so every shard ends with a number of its own.",
        lambda mesh, X: (mesh.rank + 1) * mesh.all_reduce(X),
    ),
    Mistake(
        "a sum for a product",
        "The weight is added to X, and it is to be multiplied by it.",
        lambda mesh, X: mesh.all_reduce((mesh.rank + 1) + X),
    ),
    Mistake(
        "a power for a product",
        "X is raised to the power of the weight, and it is to be multiplied by it.",
        lambda mesh, X: mesh.all_reduce(X ** (mesh.rank + 1)),
    ),
    Mistake(
        "a 1 beside the product",
        "This is rank · X + 1: the 1 belongs to the weight, (mesh.rank + 1) * X.",
        lambda mesh, X: mesh.all_reduce(mesh.rank * X + 1),
        lambda mesh, X: mesh.all_reduce(mesh.rank * X) + 1,
    ),
    Mistake(
        "mesh.ranks for mesh.rank",
        "mesh.ranks is the list of the ranks that are here; mesh.rank is each shard's own number, a Shards.",
        lambda mesh, X: mesh.all_reduce((mesh.ranks + 1) * X),
        lambda mesh, X: mesh.all_reduce((1 + mesh.ranks) * X),
    ),
    Mistake(
        "a weighted mean",
        "The weights are made to add up to 1, which gives X again; the sum itself is wanted.",
        lambda mesh, X: mesh.all_reduce((mesh.rank + 1) * X) / (mesh.size * (mesh.size + 1) / 2),
    ),
    *mistakes.of_a_sum((lambda mesh, X: (mesh.rank + 1) * X, lambda y_, X: y_)),
    Mistake(
        "no communication",
        "The number is right, since n and X are known everywhere here, but the exercise is about the sum over "
        "shards: one all_reduce.",
        lambda mesh, X: X * (mesh.size * (mesh.size + 1) / 2),
    ),
    Mistake(
        "other weights",
        "The weights wanted are 1, 2, …, n, one per shard, and these are others.",
        lambda mesh, X: mesh.all_reduce((mesh.rank + 1) ** 2 * X),
        lambda mesh, X: mesh.all_reduce(X / (mesh.rank + 1)),
        lambda mesh, X: mesh.all_reduce(mesh.rank * X) + X,
    ),
    mistakes.missing_backward(
        lambda mesh, X: mesh.all_reduce((mesh.rank + 1) * X),
    ),
    mistakes.reduced_again(
        lambda mesh, X: mesh.copy(mesh.all_reduce((mesh.rank + 1) * X)),
        lambda mesh, X: mesh.copy(mesh.all_reduce((mesh.rank + 1) * mesh.copy(X))),
    ),
]

weighted_sum = Split(
    "weighted_sum",
    "Shard r adds (r + 1) X to a common sum, X + 2 X + … + n X: one line with mesh.rank and one all_reduce.",
    given={"X": ("B K", "replicated")},
    wanted="the sum: [B, K], the same on every shard",
    sizes=lambda n, integer: [{"B": integer(2, 3), "K": integer(4, 6)}],
    dense=lambda n, X: sum((r + 1) * X for r in range(n)),
    right=lambda mesh, X: mesh.all_reduce((mesh.rank + 1) * mesh.copy(X)),
    mistakes=SUM_MISTAKES,
)


class ReportDevices(Exercise):
    """Where does each shard live? Asked on meshes with two kinds of device, one of them torch's 'meta' (it holds
    shapes and no numbers), so that a wrong answer fails on a machine with a CPU alone."""

    takes = ("mesh", "X")
    mistakes = [
        Mistake("the device of X itself", "X is the plain tensor, in one place; the shards made of it live elsewhere."),
        Mistake("not a list", "One string a shard is wanted, in a list, also where all are the same."),
        Mistake("tensors, not strings", "These are the shards themselves: str(shard.device) says where one lives."),
        Mistake(
            "the type alone", "device.type leaves out which of the devices it is: str(device) has its number, too."
        ),
        Mistake("one shard's device for all", "Each shard has a device of its own: ask all of them."),
        Mistake("repr, not str", "repr(device) is how torch writes the object: str(device) gives the text."),
        Mistake("devices, not strings", "These are torch.device objects: str(device) gives the text."),
        Mistake("each device once", "Each device is named once, and one string a shard is wanted."),
        Mistake("more than the device", "The devices are there, with other words around: str(device) alone is wanted."),
        Mistake("not one per shard", "As many strings as there are shards are wanted."),
        Mistake("out of order", "The strings are right and their order is not: shard 0 first, then shard 1, …"),
        Mistake("not placed", "The list is right, but X was never placed: ask the shards of mesh.replicate(X)."),
        Mistake("only a piece on each shard", "X was cut, and all of it is wanted on every shard."),
    ]

    def __init__(self):
        super().__init__(
            "report_devices",
            "Place X on every shard of the mesh, and say on which device each shard of it lives.",
            given=["mesh: a Mesh", "X: [B, K], a plain tensor"],
            wanted="a list of strings, such as ['cpu', 'cpu']: one per shard, in the order of the ranks",
        )

    def inspect(self, answer):
        self.callable(answer)
        X = torch.randn(2, 5, generator=seeded(), device="cpu")
        if world():
            found = try_on_ranks(self.look_there, answer, X)
        else:
            found = [self.look(answer, mesh, X) for mesh in (mixed("meta cpu cpu"), WatchedMesh(4), OnCards())]
        for mistake in filter(None, found):
            raise self.unsolved(answer) if mistake[0] == UNSOLVED else Wrong(*mistake)
        return f"Right on {world()} ranks." if world() else f"Right on {len(found)} meshes."

    def look(self, answer, mesh, X):
        """The first mistake on one mesh, as (name, message), or None."""
        try:
            got = run(answer, mesh, X)
        except (KeyboardInterrupt, Wrong):
            raise
        except NotImplementedError as error:
            return ("an error", brief_error(error)) if "meta tensor" in str(error) else (UNSOLVED, "")
        except BaseException as error:
            return "an error", f"On the devices {names(mesh)} it ends in {brief_error(error)}"
        return self.judged(got, mesh, X)

    def look_there(self, rank, answer, X):
        """The same in one of the ranks, where an error ends all of them."""
        mesh = WatchedMesh()
        return self.judged(answer(mesh, X), mesh, X)

    def judged(self, got, mesh, X):
        if got is None or got is Ellipsis:
            return UNSOLVED, ""
        mistake = self.compare(got, names(mesh), mesh, X)
        if mistake is None:
            return None
        why = next((known.why for known in self.mistakes if known.name == mistake), "")
        return mistake, f"{why} On {shown(names(mesh))} the answer is {shown(got)}.".strip()

    def compare(self, got, want, mesh, X):
        if not isinstance(got, (list, tuple)):
            return "not a list"
        got = list(got)
        if got and all(isinstance(item, torch.Tensor) for item in got):
            return "tensors, not strings"
        if any(isinstance(item, torch.device) for item in got):
            return "devices, not strings"
        if not all(isinstance(item, str) for item in got):
            return "not a list"
        if got != want:
            if got == [str(X.device)] * len(want):
                return "the device of X itself"
            if got == [device.type for device in mesh.devices]:
                return "the type alone"
            if got == [repr(device) for device in mesh.devices]:
                return "repr, not str"
            if got == want[:1] * len(want):
                return "one shard's device for all"
            if len(got) < len(want) and sorted(got) == sorted(set(want)):
                return "each device once"
            if len(got) == len(want) and all(name in line for name, line in zip(want, got, strict=True)):
                return "more than the device"
            if len(got) != len(want):
                return "not one per shard"
            return "out of order" if sorted(got) == sorted(want) else "other devices"
        if not mesh.placed:
            return "not placed"
        if not any(tensor.shape == X.shape for x_ in mesh.placed for tensor in x_.shards):
            return "only a piece on each shard"
        return None


class OnCards(WatchedMesh):
    """Two shards that say that they live on CUDA devices, whose numbers lie on the CPU all the same: so that
    a device with a number of its own is there on every machine."""

    def __init__(self):
        super().__init__(2, devices=["cpu"])
        self.devices = [torch.device("cuda", index) for index in range(2)]

    def _place(self, source, pieces):
        kinds = map(on_card, self.devices)
        return Shards(
            [piece.detach().clone().as_subclass(kind) for piece, kind in zip(pieces, kinds, strict=True)], self
        )


def on_card(card):
    """The class of tensors, and of all that torch makes of them, that say that they are on the device `card`."""
    return type("OnCard", (torch.Tensor,), {"device": property(lambda tensor: card)})


def mixed(devices):
    devices = devices.split()
    return WatchedMesh(len(devices), devices=devices)


def names(mesh):
    return [str(device) for device in mesh.devices]


def shown(value):
    try:
        return f"{value!r:.100}"
    except Exception:
        return f"a {type(value).__name__}"


report_devices = ReportDevices()
