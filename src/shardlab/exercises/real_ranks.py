"""`OnRanks`: an exercise whose answer runs on real ranks. A wrong one may abort its process, or wait for ever."""

import contextlib
import functools
import itertools
import logging
import traceback
import types
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from shardlab.exercises.exercise import Exercise, Wrong, brief_error, guarded, seeded
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.watch import everyone, world
from shardlab.mesh import Mesh
from shardlab.plumbing.agreement import is_plumbing
from shardlab.ranks import RankError
from shardlab.ranks.faults import HOW_LONG, WHAT_NEXT
from shardlab.ranks.kept import Kept
from shardlab.ranks.parcels import CannotShip

SIZE = 2
LIMIT = 30.0  # seconds that an answer may keep its ranks waiting

pools = Kept()  # of these checks alone: an answer may leave anything behind in its ranks


class OnRanks(Exercise):
    """Two processes of their own try the answer; under torchrun, the ranks that there are."""

    def try_on_ranks(self, trial, answer, *args):
        """What `trial(mesh, answer, *args)` returns, by rank; `Wrong` if it fails there."""
        if world():
            got = everyone(attempt(Mesh(), trial, answer, *args))
        else:
            try:
                with pools.of(SIZE) as pool:
                    pool.run(self.prepare, limit=60)
                    got = pool.run(shippable(trial, answer), *args, limit=LIMIT)
            except CannotShip as error:
                why = "It is to run in processes of its own, and not all of it can go there"
                raise Wrong("stays here", f"{why}: {error}") from error
            except RankError as error:
                text = str(error).replace(WHAT_NEXT, "").replace(f" {HOW_LONG}", "")
                text = " ".join(text.split())
                name = "waits for ever" if "returned nothing for" in text or "waits in" in text else "an error"
                raise Wrong(
                    name, f"It does not come to an end on every rank. Do all make the same calls? {text[:600]}"
                ) from error
        for rank, (kind, value) in enumerate(got):
            if kind == UNSOLVED:
                raise self.unsolved(answer)
            if kind == "an error":
                raise Wrong(kind, f"On rank {rank} it ends in an error: {value}")
        return [value for _, value in got]

    @staticmethod
    def prepare(mesh):
        """In each rank, before the answer: import what takes longer than an answer may."""


def shippable(trial, answer):
    """The trial of an answer as one function, which goes to the ranks by value if the answer has to."""

    def lesson(mesh, *args):
        return attempt(mesh, trial, answer, *args)

    return functools.wraps(answer)(lesson) if isinstance(answer, types.FunctionType) else lesson


def attempt(mesh, trial, answer, *args):
    """In a rank: ("returned", what the trial returned), or what became of it, if that is the same on every rank."""
    try:
        with guarded(), quiet():
            return "returned", trial(mesh, answer, *args)
    except KeyboardInterrupt:
        raise
    except NotImplementedError as error:
        all_come_here_or(error)
        own = not is_plumbing(traceback.extract_tb(error.__traceback__)[-1].filename)  # torch raises such errors, too
        return (UNSOLVED, None) if own else ("an error", brief_error(error))
    except BaseException as error:
        all_come_here_or(error)
        return "an error", brief_error(error)


@contextlib.contextmanager
def quiet():
    """No warnings, and no tracebacks that torch logs beside the error that it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def all_come_here_or(error):
    """Raise the error after all if another rank does not fail too: it may wait for this one in a collective."""
    store, all_ranks = dist.distributed_c10d._get_default_store(), range(dist.get_world_size())
    number = next(failures)
    store.set(f"failure {number} of rank {dist.get_rank()}", "")
    try:
        store.wait([f"failure {number} of rank {rank}" for rank in all_ranks], timedelta(seconds=2))
    except RuntimeError:  # then all ranks are ended, so that the numbers begin again
        raise error from None


failures = itertools.count()  # of this rank


class Collectives(TorchDispatchMode):
    """Counts the calls of torch.distributed, by name, whichever of its interfaces makes them."""

    KNOWN = ["all_reduce", "all_gather", "all_to_all", "reduce_scatter", "reduce", "broadcast", "scatter", "gather"]
    KNOWN += ["send", "recv"]

    def __init__(self):
        super().__init__()
        self.names = []

    @classmethod
    def _should_skip_dynamo(cls):  # True, the default, imports torch's compiler
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace in ("c10d", "_c10d_functional"):
            flat = function.overloadpacket.__name__.replace("_", "")
            self.names += [name for name in self.KNOWN if flat.startswith(name.replace("_", ""))][:1]
        return function(*args, **(kwargs or {}))


def normal():
    """A source of normal numbers in float64: new ones in every check, the same on all ranks."""
    generator = seeded()
    generator.manual_seed(everyone(generator.initial_seed())[0])
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def told(names):
    """
    >>> told(["all_reduce", "all_gather", "all_reduce"]), told([])
    ('2 all_reduce and 1 all_gather', 'no communication')
    """
    return " and ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "no communication"
