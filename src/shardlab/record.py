"""The record: every collective that ran, forward and backward, with the bytes it moved."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape

import torch

from shardlab.cost import ring_bytes


@dataclass(frozen=True)
class Call:
    """One collective. `payload` is the bytes of the whole tensor (what is reduced, or is there once gathered; of an
    all-to-all and a shift, what one shard has), `wire` the bytes each shard sends if a ring runs it (see `cost`)."""

    name: str
    axis: str
    shape: torch.Size  # of one shard, before
    dtype: torch.dtype
    payload: int
    wire: float
    phase: str  # "forward" or "backward"


class Traffic(list):
    """The collectives that ran while `mesh.record()` was on, a list of `Call`."""

    @property
    def names(self):
        return [call.name for call in self]

    @property
    def payload(self):
        return sum(call.payload for call in self)

    @property
    def wire(self):
        return sum(call.wire for call in self)

    def rows(self):
        for call in self:
            shard = f"{list(call.shape)} {str(call.dtype).removeprefix('torch.')}"
            yield [call.phase, call.name, call.axis, shard, f"{call.payload:,}", f"{call.wire:,.0f}"]

    def __repr__(self):
        table = [HEAD, *self.rows()] if self else [["no communication"]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)

    def _repr_html_(self):
        if not self:
            return "<p>no communication</p>"
        head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        return f"<table><caption>Traffic</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


HEAD = ["phase", "collective", "axis", "one shard", "payload bytes", "ring bytes a shard sends"]


class Recorder:
    """Where a mesh's collectives are noted: nowhere, unless someone records."""

    def __init__(self):
        self.open = []
        self.phase = threading.local()  # of the thread: autograd has one for each CUDA device

    @contextmanager
    def recording(self):
        traffic = Traffic()
        self.open.append(traffic)
        try:
            yield traffic
        finally:
            self.open = [other for other in self.open if other is not traffic]

    def note(self, axis, size, kept=True):
        return Note(self, axis, size, kept)


class Note:
    """What one group of shards calls when it moves bytes. Groups that run side by side are one collective."""

    def __init__(self, recorder, axis, size, kept):
        self.recorder, self.axis, self.size, self.kept = recorder, axis, size, kept

    def __call__(self, name, part, whole):
        recorder = self.recorder
        if recorder.open and self.kept:
            payload, phase = whole.nbytes, getattr(recorder.phase, "name", "forward")
            wire = ring_bytes(name, payload, self.size)
            call = Call(name, self.axis, part.shape, part.dtype, payload, wire, phase)
            for traffic in recorder.open:
                traffic.append(call)
