"""A machine with pretended GPUs, for each test that asks for one."""

import functools
import sys

import pytest
import torch
from pretended import pretended_cuda

from shardlab.pictures.svg import one_thread


@pytest.fixture(params=[1, 4], ids="{} GPUs".format)
def machine(request, monkeypatch):
    """So many pretended GPUs, and the sight that nothing met on two of them, also where an error was caught. (Of two
    shards that are dealt to different GPUs of 2, so are they to different ones of 4: those find all that 2 would.)"""
    if torch.cuda.is_available():
        pytest.skip("here are real ones (make cuda); CUDA_VISIBLE_DEVICES= hides them")
    monkeypatch.delenv("SHARDLAB_DEVICES", raising=False)
    forget()
    with one_thread(), pretended_cuda(request.param) as machine:
        yield machine
    forget()
    assert not machine.mixed


CACHED = type(functools.cache(len))


def forget():
    """Empty what the package remembers: it may lie on other devices."""
    for name, module in list(sys.modules.items()):
        if name.startswith("shardlab"):
            for value in vars(module).values():
                if isinstance(value, CACHED):
                    value.cache_clear()
