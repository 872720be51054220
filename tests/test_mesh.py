"""The mesh: who holds the shards, on which devices, along which axes; and placing."""

import copy
import os
import pickle
import re
import subprocess
import sys

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab import Mesh, Shards
from shardlab.plumbing.devices import deal, each_its_gpu

NO_CUDA = torch.cuda.device_count() == 0


@pytest.fixture(autouse=True)
def no_preference(monkeypatch):
    monkeypatch.delenv("SHARDLAB_DEVICES", raising=False)


def cpus(n):
    return [torch.device("cpu")] * n


# sizes and devices


def test_sizes():
    assert Mesh().size == 2 and Mesh().axes == {"tp": 2}
    assert Mesh(5).size == 5 and Mesh(5).ranks == [0, 1, 2, 3, 4]
    assert Mesh(dp=2, tp=3).size == 6 and Mesh(dp=2, tp=3).axes == {"dp": 2, "tp": 3}
    assert Mesh(1).size == 1


@pytest.mark.parametrize("size", [0, -1, 2.0, "4", True])
def test_a_size_is_a_whole_number_from_one_up(size):
    with pytest.raises(ValueError, match="axis 'tp' wants a whole number of shards from 1 up, not"):
        Mesh(size)
    with pytest.raises(ValueError, match="axis 'dp'"):
        Mesh(dp=size, tp=2)


def test_a_size_or_axes():
    with pytest.raises(ValueError, match=r"not both: Mesh\(dp=2, tp=2\) has 4 shards"):
        Mesh(2, dp=2)


def test_devices_are_dealt_in_turn():
    mesh = Mesh(5, devices=["cpu", "meta"])
    assert [device.type for device in mesh.devices] == ["cpu", "meta", "cpu", "meta", "cpu"]
    x_ = mesh.replicate(torch.ones(2))
    assert [t.device.type for t in x_.shards] == ["cpu", "meta", "cpu", "meta", "cpu"]
    assert Mesh(1, devices=["cpu", "meta"]).devices == cpus(1)
    assert Mesh(2, devices=["cpu:0", torch.device("cpu")]).devices == cpus(2)


@pytest.mark.skipif(not NO_CUDA, reason="there are CUDA devices")
def test_without_cuda_the_shards_live_on_the_cpu():
    assert Mesh(3).devices == cpus(3)


def test_a_machine_with_two_cuda_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = [str(device) for device in deal(None, range(5), local=False)]
    assert names == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert deal(["cuda"], range(2), local=False) == [torch.device("cuda:0")] * 2
    assert deal(["cpu"], range(2), local=False) == cpus(2)
    with pytest.raises(RuntimeError, match="cuda:2 was asked for.*2 CUDA devices"):
        deal(["cuda:2"], range(2), local=False)
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second process on its host, whatever its rank in the world
    assert deal(None, [5], local=True) == [torch.device("cuda:1")]


def test_an_environment_variable_changes_the_default(monkeypatch):
    monkeypatch.setenv("SHARDLAB_DEVICES", "meta, cpu")
    assert [device.type for device in Mesh(3).devices] == ["meta", "cpu", "meta"]
    assert Mesh(3, devices=["cpu"]).devices == cpus(3)


@pytest.mark.skipif(not NO_CUDA, reason="there are CUDA devices")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(device, monkeypatch):
    with pytest.raises(RuntimeError, match="0 CUDA devices.*SHARDLAB_DEVICES=cpu"):
        Mesh(2, devices=[device])
    monkeypatch.setenv("SHARDLAB_DEVICES", device)
    with pytest.raises(RuntimeError, match="0 CUDA devices"):
        Mesh(2)


def test_names_that_are_no_devices():
    with pytest.raises(ValueError, match="at least one device"):
        Mesh(2, devices=[])
    with pytest.raises(RuntimeError, match="gpu"):
        Mesh(2, devices=["gpu"])


# axes


def test_views():
    mesh = Mesh(dp=2, tp=3, devices=["cpu"])
    assert mesh["dp"].size == 2 and mesh["tp"].size == 3 and mesh.size == 6
    assert [t.item() for t in mesh.rank.shards] == [0, 1, 2, 3, 4, 5]
    assert [t.item() for t in mesh["dp"].rank.shards] == [0, 0, 0, 1, 1, 1]
    assert [t.item() for t in mesh["tp"].rank.shards] == [0, 1, 2, 0, 1, 2]
    assert mesh["tp"]["dp"].size == 2
    assert repr(mesh) == "Mesh(dp=2, tp=3)" and repr(mesh["tp"]) == 'Mesh(dp=2, tp=3)["tp"]'
    with pytest.raises(KeyError, match="no axis 'pp', only 'dp', 'tp'"):
        mesh["pp"]


def test_the_layout_is_that_of_torchs_device_mesh():
    mesh = Mesh(pp=2, dp=3, tp=2, devices=["cpu"])
    grid = torch.arange(12).reshape(2, 3, 2)
    for axis, place in (("pp", 0), ("dp", 1), ("tp", 2)):
        index = torch.stack(mesh[axis].rank.shards).reshape(2, 3, 2)
        want = torch.arange(grid.shape[place]).reshape([-1 if i == place else 1 for i in range(3)]).expand(2, 3, 2)
        assert torch.equal(index, want)


def test_equality():
    mesh = Mesh(dp=2, tp=2, devices=["cpu"])
    assert mesh == Mesh(dp=2, tp=2, devices=["cpu"]) == mesh["tp"]
    assert mesh != Mesh(tp=2, dp=2, devices=["cpu"])  # the same names, another layout
    assert mesh != Mesh(4, devices=["cpu"]) and mesh != Mesh(dp=2, tp=2, devices=["meta"]) and mesh != "mesh"
    assert copy.deepcopy(mesh) is mesh
    assert mesh["tp"].rank.mesh is mesh["dp"].replicate(torch.ones(1)).mesh is mesh


def test_values_of_two_views_meet():
    mesh = Mesh(dp=2, tp=2, devices=["cpu"])
    x_ = mesh["dp"].shard(torch.arange(4.0), dim=0) + mesh["tp"].rank
    assert [t.tolist() for t in x_.shards] == [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]


# placing

DTYPES = [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.sampled_from(DTYPES), st.data())
def test_shard_and_replicate(n, shape, dtype, data):
    mesh, tensor = Mesh(n, devices=["cpu"]), torch.randn(shape).mul(3).to(dtype)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x_ = mesh.shard(tensor, dim)
    for actual, want in zip(x_.shards, tensor.tensor_split(n, dim), strict=True):
        assert (actual.shape, actual.dtype) == (want.shape, dtype) and torch.equal(actual, want)
        assert actual.is_contiguous()
    assert all(torch.equal(actual, tensor) for actual in mesh.replicate(tensor).shards)


@pytest.mark.parametrize("place", [lambda m, t: m.shard(t, dim=1), lambda m, t: m.replicate(t)])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_placed_shards_are_leaves_of_their_own(place, requires_grad):
    mesh = Mesh(3, devices=["cpu"])
    source = torch.ones(4, 7, requires_grad=requires_grad)
    x_ = place(mesh, source)
    assert x_.is_leaf and x_.requires_grad is requires_grad
    places = [t.untyped_storage().data_ptr() for t in (source, *x_.shards)]
    assert len(set(places)) == 4
    assert sum(t.untyped_storage().nbytes() for t in x_.shards) == sum(t.nbytes for t in x_.shards)
    with torch.no_grad():
        for t in x_.shards:
            t.zero_()
    assert source.sum() == 28


def test_shards_along_an_axis_are_replicated_along_the_others():
    mesh = Mesh(dp=2, tp=3, devices=["cpu"])
    tensor = torch.arange(6.0)
    assert [t.tolist() for t in mesh["tp"].shard(tensor, 0).shards] == [[0, 1], [2, 3], [4, 5]] * 2
    assert [t.tolist() for t in mesh["dp"].shard(tensor, 0).shards] == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3
    assert [t.tolist() for t in mesh.shard(tensor, 0).shards] == [[0], [1], [2], [3], [4], [5]]


def test_what_cannot_be_placed():
    mesh = Mesh(2, devices=["cpu"])
    for wrong in ([1.0, 2.0], 3.0, None, mesh.replicate(torch.ones(2))):
        with pytest.raises(TypeError, match=f"shard takes a plain tensor, not a {type(wrong).__name__}"):
            mesh.shard(wrong, 0)
        with pytest.raises(TypeError, match=f"replicate takes a plain tensor, not a {type(wrong).__name__}"):
            mesh.replicate(wrong)
    for dim in (1, -2, None):
        with pytest.raises(IndexError, match=rf"shard: dim={dim} does not exist.*\[4\]"):
            mesh.shard(torch.ones(4), dim)
    with pytest.raises(IndexError, match="shard: dim=0"):
        mesh.shard(torch.tensor(1.0), 0)


@pytest.mark.parametrize("place", [lambda m, t: m.shard(t, dim=1), lambda m, t: m.replicate(t)])
def test_a_history_is_not_cut_in_silence(place):
    """The layers before would get no gradient (pytorch/PiPPy#319): refused, and `detach()` is the way that works."""
    mesh, first = Mesh(2, devices=["cpu"]), torch.nn.Linear(4, 4)
    h = first(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"\[2, 4\], has a history \(AddmmBackward0\).*x\.detach\(\)"):
        place(mesh, h)
    with pytest.raises(ValueError, match="PermuteBackward0"):
        place(mesh, first.weight.T)
    assert place(mesh, h.detach()).requires_grad is False
    assert place(mesh, first.weight).requires_grad is True
    with torch.no_grad():
        place(mesh, h)


@pytest.mark.parametrize(
    "odd, way",
    [
        (torch.ones(2, 2).to_sparse(), "x.to_dense()"),
        (torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "x.dequantize()"),
        (torch.ones(2, 2, device="meta"), ""),
    ],
)
def test_what_holds_no_plain_numbers_is_not_placed(odd, way):
    mesh = Mesh(2, devices=["cpu"])
    for place in (mesh.replicate, lambda x: mesh.shard(x, 0)):
        with pytest.raises(TypeError, match=rf"\[2, 2\].*{re.escape(way)}"):
            place(odd)
    if way:
        assert mesh.replicate(eval(way, {"x": odd})).shape == (2, 2)


def test_numbers_of_numpy_are_numbers():
    mesh = Mesh(numpy.int64(3), devices="cpu")
    assert (mesh.size, mesh.axes, mesh.devices) == (3, {"tp": 3}, [torch.device("cpu")] * 3)
    x_ = mesh.shard(torch.ones(2, 3), dim=numpy.int32(1))
    assert mesh.all_gather(x_, dim=numpy.int64(-1)).shape == (2, 3)
    assert mesh.broadcast(x_, src=numpy.int8(2)).shape == (2, 1)
    for dim in (True, "1", numpy.float64(1), mesh.rank):
        with pytest.raises(IndexError, match="does not exist"):
            mesh.shard(torch.ones(2, 3), dim)
    for src in (None, True, "0", 1.0, 3):
        with pytest.raises(ValueError, match=f"src={src} is no shard of"):
            mesh.broadcast(x_, src=src)


def test_a_mesh_has_no_more_shards_than_make_sense():
    with pytest.raises(ValueError, match="1,000,000,000 shards; 4,096 are the most"):
        Mesh(10**9)


def test_a_mesh_stays_in_its_process():
    mesh = Mesh(2, devices=["cpu"])
    with pytest.raises(TypeError, match=r"make it there, with Mesh\(tp=2\)"):
        pickle.dumps(mesh)
    assert copy.copy(mesh) is mesh and copy.deepcopy(mesh) is mesh


def test_the_rank_is_a_value_of_this_mesh():
    mesh = Mesh(3, devices=["cpu", "meta"])
    assert isinstance(mesh.rank, Shards) and mesh.rank.shape == () and mesh.rank.dtype == torch.int64
    assert [t.device.type for t in mesh.rank.shards] == ["cpu", "meta", "cpu"]


HELD = """
import weakref

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardlab import Mesh

dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
flat, crossed = Mesh(), Mesh(dp=2, tp=2)
views = [flat, crossed, crossed["dp"], crossed["tp"]]
for mesh in views:
    mesh.all_reduce(mesh.replicate(torch.ones(1)))
held = {weakref.ref(group.process_group) for mesh in views for group in mesh.groups}
dist.destroy_process_group()
print(len(held), [ref for ref in held if ref() is not None])
"""


def test_a_mesh_holds_no_process_group():
    """Whose groups outlive the end of torch.distributed, that process gloo brings down, every other time; and a
    program's own mesh lives to the last line."""
    environment = os.environ | {"SHARDLAB_CHECK": "0", "SHARDLAB_DEVICES": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", HELD], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["3", "[]"], done.stdout + done.stderr


def test_when_ranks_have_a_gpu_each():
    one, two = torch.device("cuda", 0), torch.device("cuda", 1)
    assert each_its_gpu([one, two]) and each_its_gpu([two])
    assert not each_its_gpu([one, one]) and not each_its_gpu([one, torch.device("cpu")])
