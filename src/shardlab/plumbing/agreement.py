"""What the shards of a group must agree on before a collective moves anything.

Ranks tell each other, in a few numbers, since gloo and nccl compare nothing: they abort, wait for ever, or mix the
values up. SHARDLAB_CHECK=0 turns that off where nothing but the check needs it.
"""

import os
import sys
import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist

CALLS = ["all_reduce sum", "all_reduce max", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "shift"]
FLOATS = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128"]
DTYPES = [*FLOATS, "int64", "int32", "int8", "uint8", "bool"]  # what gloo and nccl both carry
DIMS = 8
ROOTS = {"broadcast": "src", "shift": "by", "all_to_all": "split_dim and concat_dim"}  # the others have a dim
swap = None  # on ranks of one host: how they swap numbers, over memory that they share (see `board`)
log = None  # in a pool: where a rank notes that it `came` to a collective, and that this has `opened` (see `visits`)
HOUSE = Path(__file__).parent.parent
SHELL = tuple(f"{Path(find_spec(name).origin).parent}{os.sep}" for name in ("IPython", "ipykernel") if find_spec(name))
PLUMBING = (*(f"{place}{os.sep}" for place in (Path(os.__file__).parent, Path(torch.__file__).parent, HOUSE)), *SHELL)


def describe(collective, part, how, site):
    """A header: what a rank is about to do, as whole numbers. Collective, dtype, site, dims or root, shape."""
    dtype = str(part.dtype).removeprefix("torch.")
    if dtype not in DTYPES or part.dim() > DIMS:
        raise TypeError(f"{dtype} of {part.dim()} dims does not travel between ranks: {DTYPES}, up to {DIMS} dims, do")
    how, sizes = [*how, -1, -1][:2], [*part.shape, *[0] * (DIMS - part.dim())]
    return [CALLS.index(collective), DTYPES.index(dtype), zlib.crc32(site.encode()), *how, part.dim(), *sizes]


def exchange(group, numbers, device, what):
    """A list of whole numbers from every rank."""
    try:
        if swap:
            return swap(group.ranks, numbers, what)
        numbers = torch.tensor(numbers, device="cpu" if group.staged else device)
        everyone = [torch.empty_like(numbers) for _ in range(group.size)]
        dist.all_gather(everyone, numbers, group=group.process_group)
    except RuntimeError as error:
        alone = RuntimeError(
            f"shard {group.indices[0]} came to {what}, but not every other shard did: one stopped with an "
            "error of its own, waits in another collective, or has ended, and this call is one too many"
        )
        alone.guilty = []  # it is one of the others
        raise alone from error
    return [numbers.tolist() for numbers in everyone]


def compare(headers, free, sites, names):
    """The shape of every shard, once it is clear that all headers announce the same."""
    first = headers[0]
    if headers.count(first) == len(headers):
        return [torch.Size(first[6 : 6 + first[5]])] * len(headers)
    calls = [CALLS[header[0]] for header in headers]
    agree("a collective", calls, "call", sites, names)
    collective = calls[0].split()[0]
    hows = [", ".join(str(number) for number in header[3:5] if number >= 0) for header in headers]
    agree(collective, hows, ROOTS.get(collective, "dim"), sites, names)
    agree(collective, [DTYPES[header[1]] for header in headers], "dtype", sites, names)
    shapes = [torch.Size(header[6 : 6 + header[5]]) for header in headers]
    fit(collective, shapes, free, sites, names)
    agree(calls[0], [header[2] for header in headers], "line of the program", sites, names)
    return shapes


def fit(collective, shapes, free, sites=None, names=None):
    """Do the shapes agree, but for the dim `free`, if there is one? (`...`: they need not)"""
    if free is ... or shapes.count(shapes[0]) == len(shapes):
        return
    collective = collective.split()[0]
    if free is not None:
        others = [(*shape[:free], *shape[free + 1 :]) for shape in shapes]
        if others.count(others[0]) == len(others):
            return
        collective = f"{collective} along dim {free}, where the other dims must agree,"
    agree(collective, shapes, "shape", sites, names)


def agree(collective, values, what, sites=None, names=None):
    """An error that lists what each shard brought, and names the odd ones out, unless all brought the same."""
    if values.count(values[0]) == len(values):
        return
    names = names or range(len(values))
    lines = sites() if sites else None
    if what == "line of the program":
        values = lines
    shown = [list(value) if isinstance(value, torch.Size) else str(value) for value in values]
    message = f"{collective} wants one {what} on every shard, but they have "
    message += ", ".join(f"shard {name}: {value}" for name, value in zip(names, shown, strict=True))
    most = max(values, key=values.count)
    odd = [name for name, value in zip(names, values, strict=True) if value != most]
    if 2 * len(odd) >= len(values):
        odd = list(names)
    else:
        message += f". Odd: shard{'s'[: len(odd) - 1]} {', '.join(map(str, odd))}"
    if lines and values is not lines:
        same = lines.count(lines[0]) == len(lines)
        places = [lines[0]] if same else [f"shard {name} {line}" for name, line in zip(names, lines, strict=True)]
        message += f". They are at {', '.join(places)}"
    error = ValueError(message)
    error.guilty = odd
    raise error


@cache
def is_plumbing(filename):
    """Is this a file of shardlab, torch, Python or IPython, and not of whoever uses them?"""
    return filename.startswith(PLUMBING) or filename.startswith("<frozen")


def call_site():
    """Which line of whose program came here, such as `lesson, line 3 of train.py`."""
    frame = sys._getframe(1)
    while frame and is_plumbing(frame.f_code.co_filename):
        frame = frame.f_back
    return site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) if frame else "no line"


def site(filename, line, function):
    """
    >>> site("project/train.py", 3, "step"), site("ipykernel_8/123.py", 2, "<module>")
    ('step, line 3 of train.py', 'line 2 of its cell')
    >>> site("<timed exec>", 1, "<module>")  # the first line below %%time
    'line 1 of its timed cell'
    """
    place = "its cell" if "ipykernel_" in filename else os.path.basename(filename)
    place = "its timed cell" if filename.startswith("<timed ") else place
    return f"line {line} of {place}" if function == "<module>" else f"{function}, line {line} of {place}"
