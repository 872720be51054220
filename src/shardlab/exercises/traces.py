"""What an answer would leave behind: settings of the whole process are put back, and its prints are shown once."""

import contextlib
import contextvars
import io
import os
import random

import numpy
import torch

MOST, LINES = 2000, 20  # characters and lines of an answer's prints
cuda = torch.cuda

SETTINGS = [  # how to get each, and how to set it
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_rng_state, torch.set_rng_state),
    (lambda: cuda.get_rng_state_all() if cuda.is_initialized() else [], cuda.set_rng_state_all),
    (random.getstate, random.setstate),
    (numpy.random.get_state, numpy.random.set_state),
    (os.getcwd, os.chdir),
]


@contextlib.contextmanager
def guarded():
    """Torch as a program finds it inside (gradients on, float32, no autocast), and all settings as they were after."""
    before, environ = [(put, get()) for get, put in SETTINGS], dict(os.environ)
    try:
        torch.set_default_dtype(torch.float32)
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for put, value in before:
            put(value)
        if os.environ != environ:
            os.environ.clear()
            os.environ.update(environ)


def on_the_cpu():
    """New tensors are made on the CPU inside. (Torch's context costs time in every call: only where it is needed.)"""
    cpu = torch.device("cpu")
    return contextlib.nullcontext() if torch.get_default_device() == cpu else cpu


class Heard(io.TextIOBase):
    """What an answer prints, as far as anyone reads it.

    >>> heard = Heard()
    >>> for number in range(10_000):
    ...     print("step", number, file=heard)
    >>> str(heard).splitlines()[-2:]
    ['step 19', '… and so on: only the first 20 lines are shown']
    """

    def __init__(self):
        super().__init__()
        self.text = ""

    def write(self, text):
        self.text += text[: MOST - len(self.text)]
        return len(text)

    def __str__(self):
        lines = self.text.splitlines()
        cut = len(lines) > LINES or len(self.text) == MOST
        return "\n".join(lines[:LINES] + [f"… and so on: only the first {LINES} lines are shown"] * cut)


printed = contextvars.ContextVar("printed")  # by the answer of this check


@contextlib.contextmanager
def prints_once():
    """A check inside: an answer is tried on many inputs, and the prints of one try are shown."""
    token = printed.set([])
    try:
        yield
    finally:
        for text in printed.get():
            print(text)
        printed.reset(token)


@contextlib.contextmanager
def listening():
    """One try of an answer inside: its prints are kept, if they are the first of this check."""
    heard = Heard()
    try:
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            yield
    finally:
        if heard.text and printed.get(None) == []:
            printed.get().append(str(heard))
