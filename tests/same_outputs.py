"""What `pytest --nbval` leaves out when it compares a cell with what is stored: here every text stays as it was, letter
by letter, and every picture the same to the eye. (On the CPU, where `make test` has its kernels.)"""

from copy import deepcopy

import numpy as np
import pytest
from nbval.plugin import IPyNbCell, coalesce_streams

from notebook_tools import ignored, pictures, texts


class SameOutputs:
    """A plugin of pytest, for the cells that nbval runs."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        stored = deepcopy(item.cell) if isinstance(item, IPyNbCell) else None  # nbval writes into it
        result = yield
        if stored and not ignored(stored):
            stored.outputs, item.cell.outputs = coalesce_streams(stored.outputs), item.test_outputs
            assert_same(stored, item.cell)
        return result


def assert_same(before, after):
    assert sorted(texts(after)) == sorted(texts(before))
    assert_same_to_the_eye(list(pictures(before)), list(pictures(after)))


def assert_same_to_the_eye(before, after):
    assert [p.shape for p in before] == [p.shape for p in after], "another picture"
    for old, new in zip(before, after, strict=True):
        assert np.abs(old - new).mean() < 0.01, "another picture"  # of the full range: a moved line, another number
