"""What a lesson finds when it begins: the kernel's settings as they are now, and nothing of the lesson before."""

import os
import random
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from torch.nn import functional

from shardlab import Mesh, Shards

pytest.importorskip("cloudpickle")  # where torch is the system's
from shardlab.ranks import ranks

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def pool():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDLAB_DEVICES", "cpu")
        with ranks(2) as pool:
            yield pool


@pytest.fixture
def dtype():
    yield
    torch.set_default_dtype(torch.float32)


def state(mesh):
    """What a lesson can see of its surroundings."""
    return {
        "dtype": torch.ones(1).dtype,
        "gradients": torch.is_grad_enabled(),
        "folder": os.getcwd(),
        "path": list(__import__("sys").path),
        "autocast": torch.is_autocast_enabled("cpu"),
        "a variable": os.environ.get("A_VARIABLE"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "device": str(torch.get_default_device()),
        "sum": torch.ones(2).sum().item(),
        "gelu": functional.gelu(torch.zeros(1)).item(),
        "softsign": functional.softsign(torch.zeros(1)).item(),
        "size": mesh.size,
        "shards": len((mesh.rank + 1).shards),
        "filters": len(warnings.filters),
    }


def test_the_kernels_settings_reach_the_ranks(pool, tmp_path, monkeypatch, dtype):
    before = pool.run(state)
    monkeypatch.setenv("A_VARIABLE", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/somewhere")
    torch.set_default_dtype(torch.float64)
    with torch.no_grad(), torch.autocast("cpu"):
        for there in pool.run(state):
            assert there["dtype"] is torch.float64 and not there["gradients"] and there["autocast"]
            assert Path(there["folder"]).resolve() == tmp_path.resolve() and there["path"][0] == "/somewhere"
            assert there["a variable"] == "1"
    monkeypatch.undo()
    torch.set_default_dtype(torch.float32)
    assert pool.run(state) == before


def test_what_a_lesson_sets_ends_with_it(pool):
    def sets_everything(mesh):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_device("meta")
        torch.set_autocast_enabled("cpu", True)
        os.environ["A_VARIABLE"] = "the lesson's"
        os.environ.pop("PATH", None)
        os.chdir("/")
        __import__("sys").path.append("/nowhere")
        warnings.simplefilter("ignore")

    before = pool.run(state)
    pool.run(sets_everything)
    assert pool.run(state) == before


def test_functions_that_a_lesson_replaces_are_back(pool):
    def patches(mesh):
        functional.gelu = lambda *args, **kwargs: torch.full([1], 7.0)
        torch.Tensor.sum = torch.Tensor.__add__ = lambda *args: torch.full([], 7.0)  # both are its base's
        Mesh.size = property(lambda mesh: 7)
        Shards.__add__ = lambda *args: Shards([], None)
        del functional.softsign
        return torch.ones(2).sum().item(), mesh.size

    before = pool.run(state)
    assert pool.run(patches) == [(7, 7)] * 2
    assert pool.run(state) == before


def test_a_seed_is_for_one_lesson(pool):
    def draw(mesh):
        return torch.rand(1).item(), random.random(), numpy.random.rand()

    def seeded(mesh):
        torch.manual_seed(0)
        random.seed(0)
        numpy.random.seed(0)
        return draw(mesh)

    first, second = pool.run(seeded)
    assert first == second == pool.run(seeded)[0]
    for _ in range(2):
        ours, others = pool.run(draw)
        assert not {*ours} & {*others}, "ranks that draw the same numbers"
        assert not {*ours, *others} & {*first}
