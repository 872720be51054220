"""An answer on real ranks, processes of their own: a wrong one may abort its process, or wait for ever."""

import contextlib
import itertools
import logging
import traceback
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from shardlab.exercises.exercise import Exercise, Wrong, brief_error, seeded
from shardlab.exercises.traces import Heard, guarded, listening
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.world import everyone, from_rank_0, world
from shardlab.plumbing.agreement import is_plumbing
from shardlab.ranks import RankError, parcels
from shardlab.ranks.faults import HOW_LONG, WHAT_NEXT
from shardlab.ranks.kept import Kept

SIZE = 2
LIMIT = 30.0  # seconds that an answer may keep its ranks waiting

pools = Kept()  # of these checks alone: an answer may leave anything behind in its ranks


class OnRanks(Exercise):
    """Processes of their own try the answer."""

    def try_on_ranks(self, trial, answer, *args):
        """What `trial(mesh, answer, *args)` returns, by rank; `Wrong` if it fails there."""
        try:
            return try_on_ranks(trial, answer, *args, prepare=self.prepare)
        except Failed as failed:
            raise self.unsolved(answer) if failed.mistake == UNSOLVED else failed from None

    @staticmethod
    def prepare(mesh):
        """In each rank, before the answer: import what takes longer than an answer may."""


class Failed(Wrong):
    """It failed on some of the ranks: `where`, and what the error there `said`."""

    def __init__(self, mistake, message, where="", said=""):
        super().__init__(mistake, message)
        self.where, self.said = where, said


def try_on_ranks(trial, answer, *args, prepare=OnRanks.prepare):
    """What `trial(mesh, answer, *args)` returns on each rank of a pool, `Wrong` if it fails on one.

    Under torchrun the ranks that there are stay out of it, so that whatever an answer does, they go on: rank 0 has a
    pool of as many ranks as they are, where each runs the answer as it is on its own rank of torchrun.
    """
    packed = everyone(packed_by(answer))
    for each in packed:
        if isinstance(each, str):
            raise Wrong("stays here", f"It is to run in processes of its own, and not all of it can go there: {each}")
    size = len(packed) if world() else SIZE
    packed *= size // len(packed)

    def in_a_pool():
        try:
            with pools.of(size) as pool, listening():
                pool.run(prepare, limit=60)
                return pool.run(attempt, trial, packed, *args, limit=LIMIT), None
        except RankError as error:
            return None, fault(error, size)

    answers, failure = from_rank_0(in_a_pool)
    if failure:
        raise Failed(*failure)
    for kind, value in answers:
        if kind != "returned":
            raise Failed(kind, f"On every rank it ends in an error, on rank 0 in {value}", said=value)
    return [value for _, value in answers]


def packed_by(answer):
    """An answer as bytes, which go to the ranks, or why it cannot."""
    try:
        return parcels.pack_lesson(answer, (), None)
    except parcels.CannotShip as error:
        return str(error)


def attempt(mesh, trial, packed, *args):
    """In a rank: ("returned", what the trial returned), or what became of it, if that is the same on every rank."""
    answer, _ = parcels.unpack_lesson(packed[mesh.ranks[0]], begin=lambda settings: None)
    heard = Heard()
    try:
        with guarded(), quiet(), contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            return "returned", trial(mesh, answer, *args)
    except KeyboardInterrupt:
        raise
    except NotImplementedError as error:
        all_come_here_or(error)
        own = not is_plumbing(traceback.extract_tb(error.__traceback__)[-1].filename)  # torch raises such errors, too
        return (UNSOLVED, "") if own else ("an error", brief_error(error))
    except BaseException as error:
        all_come_here_or(error)
        return "an error", brief_error(error)
    finally:
        torch.set_default_device(None)
        if heard.text:
            print(heard)


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


def fault(error, size):
    """A RankError as (mistake, message, which of the ranks, what they said), in the learner's words."""
    text = str(error).replace(WHAT_NEXT, "").replace(f" {HOW_LONG}", "")
    message = f"It does not come to an end on every rank. Do all make the same calls? {' '.join(text.split())[:600]}"
    where, raised, said = text.partition("\n    at ")[0].partition(" raised ")
    if raised:
        said = " ".join(said.partition(". They are at ")[0].split()).removesuffix(":")
        return "an error", message, f"{where} of {size}" if len(error.ranks) < size else "", said
    stuck = any(words in text for words in ("waits in", "where rank", "returned nothing", "without coming", "did not"))
    return "waits for ever" if stuck else "an error", message


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
