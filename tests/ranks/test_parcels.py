"""What travels between the kernel and its ranks, and how it comes back."""

import importlib
import pickle
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pytest
import torch

from shardlab import Mesh, Shards

pytest.importorskip("cloudpickle")  # where torch is the system's
from shardlab.ranks import RankError, parcels, ranks

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def pool():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDLAB_DEVICES", "cpu")
        with ranks(2) as pool:
            yield pool


STRIDED = [
    torch.randn(1, 4)[:, 0],  # one element, four apart from the next that is not there
    torch.randn(3, 4)[:1, 2],
    torch.ones(3).sum().expand(1),
    torch.randn(8)[::4][:1],
    torch.empty(0, 2)[:, 0],
    torch.randn(3, 4).T[::2],
    torch.randn(2, 3, dtype=torch.complex64).conj().T,
    torch.randn(6, dtype=torch.bfloat16)[1::3],
]


@pytest.mark.parametrize("tensor", STRIDED, ids=lambda tensor: f"{list(tensor.shape)} by {tensor.stride()}")
def test_a_tensor_travels_whatever_its_strides(pool, tensor):
    for back in pool.run(lambda mesh, x: x, tensor):
        assert back.dtype is tensor.dtype and back.shape == tensor.shape and torch.equal(back, tensor)


def test_shards_of_one_number_each_come_back(pool):
    y_ = pool.run(lambda mesh, X: mesh.replicate(X)[:, 0], torch.arange(4.0).reshape(1, 4) + 5)
    assert [shard.tolist() for shard in y_.shards] == [[5.0], [5.0]]


def test_shards_that_are_trained_are_trained_on_the_ranks_too(pool):
    def lesson(mesh, w_):
        loss_ = mesh.all_reduce((w_ * w_).sum())
        loss_.backward()
        return w_.grad

    mesh = Mesh(2, devices=["cpu"])
    W = torch.randn(3, 4, requires_grad=True)
    grad_ = pool.run(lesson, mesh.shard(W, dim=1))
    assert torch.equal(torch.cat(grad_.shards, dim=1), 2 * W.detach())
    assert pool.run(lambda mesh, x_: x_.requires_grad, mesh.shard(W.detach(), dim=1)) == [False, False]


class Pair(NamedTuple):
    left: object
    right: object


def test_shards_come_back_put_together_wherever_they_are(pool):
    def here(mesh):
        return mesh.replicate(torch.ones(2)) * (1 + mesh.rank)

    def numbers(x_):
        assert isinstance(x_, Shards)
        return [shard.tolist() for shard in x_.shards]

    both = [[1.0, 1.0], [2.0, 2.0]]
    found = pool.run(lambda mesh: {"grads": [here(mesh), (here(mesh), "a")], "y": Pair(here(mesh), mesh.ranks[0])})
    assert numbers(found["grads"][0]) == numbers(found["grads"][1][0]) == numbers(found["y"].left) == both
    assert type(found["grads"]) is list and found["grads"][1][1] == ["a", "a"]
    assert type(found["y"]) is Pair and found["y"].right == [0, 1]


def test_shards_of_some_ranks_alone_come_back_as_tensors(pool):
    found = pool.run(lambda mesh: mesh.replicate(torch.ones(2)) if mesh.ranks == [0] else None)
    assert torch.equal(found[0], torch.ones(2)) and found[1] is None
    found = pool.run(lambda mesh: (1, 2) if mesh.ranks == [0] else mesh.replicate(torch.ones(2)))
    assert found[0] == (1, 2) and torch.equal(found[1], torch.ones(2))


def test_what_cannot_go_is_found_in_functions_that_call_each_other(pool):
    lock, pids = threading.Lock(), pool.pids

    def ping(mesh):
        return pong(mesh)

    def pong(mesh):
        with lock:
            return ping(mesh)

    with pytest.raises(parcels.CannotShip, match=r"`lock` \(lock\), which `pong` uses, cannot be sent"):
        pool.run(ping)
    assert pool.pids == pids, "the ranks know of nothing"


def test_a_name_without_a_value_yet_is_no_riddle(pool):
    def lesson(mesh):
        return later, lock

    lock = threading.Lock()
    with pytest.raises(parcels.CannotShip, match="cannot be sent to the ranks: cannot pickle '_thread.lock'"):
        pool.run(lesson)
    later = 1


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module of the user's own, and import it, or read it again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name, text, read=True):
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        importlib.invalidate_caches()
        return read and (importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name))

    yield write
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_a_lesson_from_a_file_of_the_users_own_goes_as_it_is_now(pool, write):
    own = write("own_lesson", "def helper(): return 'old'\ndef lesson(mesh): return helper()\n")
    assert pool.run(own.lesson) == ["old", "old"]
    own = write("own_lesson", "def helper(): return 'new'\ndef lesson(mesh): return helper()\n")
    for lesson in (own.lesson, partial(own.lesson)):
        assert pool.run(lesson) == ["new"] * 2


HELPER = """
from functools import cache
from dataclasses import dataclass
scale = {0}
doubled = False
@cache
def kept(x): return {0} * x
@dataclass
class Pair:
    left: int
    right: int = {0}
def f(x): return scale * x * (2 if doubled else 1)
def double():
    global doubled
    doubled = True
"""


@pytest.mark.parametrize("name", ["own_helper", "own_package.helper"])
def test_a_module_of_the_users_own_is_what_the_kernel_has(pool, write, name):
    if "." in name:
        write("own_package.__init__", "", read=False)
    helper = write(name, HELPER.format(1))

    def lesson(mesh):
        return helper.f(1), helper.kept(1), helper.Pair(1).right

    assert pool.run(lesson) == [(1, 1, 1)] * 2
    helper = write(name, HELPER.format(3))
    assert pool.run(lesson) == [(3, 3, 3)] * 2, "the ranks run what they read first"
    write(name, HELPER.format(5), read=False)
    assert lesson(None) == (3, 3, 3) and pool.run(lesson) == [(3, 3, 3)] * 2, "they read what the kernel has not"
    helper.scale = 7
    helper.kept = lambda x: "in its place"
    assert pool.run(lesson) == [(7, "in its place", 3)] * 2


def test_a_module_of_the_users_own_is_one_in_a_rank(pool, write):
    helper = write("own_one", HELPER.format(1))
    f = helper.f

    def lesson(mesh):
        helper.double()
        helper.scale = 10
        import own_one

        return helper.f(1), f(1), own_one.f(1), helper.doubled, type(own_one.Pair(1)) is helper.Pair

    assert pool.run(lesson) == [(20, 20, 20, True, True)] * 2
    assert (helper.doubled, helper.scale) == (False, 1)
    assert pool.run(lambda mesh: helper.f(1)) == [1, 1], "it began anew"


def test_what_comes_back_is_of_the_kernels_own_class(pool, write):
    helper = write("own_class", HELPER.format(1))
    for back in pool.run(lambda mesh: helper.Pair(1, 2)) + pool.run(lambda mesh, pair: pair, helper.Pair(1, 2)):
        assert type(back) is helper.Pair and back == helper.Pair(1, 2)


def test_a_module_that_a_lesson_imports_itself_is_read_as_it_is_now(pool, write):
    def lesson(mesh):
        import own_inside

        return own_inside.f(1)

    for number in (11, 22):
        write("own_inside", HELPER.format(number), read=False)
        assert pool.run(lesson) == [number] * 2


def test_a_module_that_cannot_go_says_what_to_write_and_that_works(pool, write):
    own_lock = write("own_lock", "import threading\nlock = threading.Lock()\ndef f(): return 3\n")
    said = (
        "`lock` .lock., which is in own_lock.py and would go with it .write `from own_lock import …`.*or `import own_lo"
    )
    with pytest.raises(parcels.CannotShip, match=said):
        pool.run(lambda mesh: own_lock.f())
    f = own_lock.f
    assert pool.run(lambda mesh: f()) == [3, 3]

    def lesson(mesh):
        import own_lock

        with own_lock.lock:
            return own_lock.f()

    assert pool.run(lesson) == [3, 3]


def test_a_cached_function_of_a_notebook_goes(pool):
    cell = {"__name__": "__main__"}
    exec("import functools\n@functools.cache\ndef f(x): return 2 * x\ndef lesson(mesh): return f(4)", cell)
    assert pool.run(cell["lesson"]) == [8, 8]


def test_tensors_that_share_memory_share_it_at_their_destination(pool):
    def lesson(mesh, base, *views):
        base[1, 1] = 7
        return [view.flatten().tolist() for view in views], [view.stride() for view in views]

    def made():
        base = torch.arange(6.0).reshape(2, 3)
        return base, base[1], base.T, base.view(torch.int32), base[:, 1:], base.expand(2, 2, 3)

    for views in (made(), made()[::-1][-1:] + made()):
        assert pool.run(lesson, *views) == [lesson(None, *views)] * 2
    complexes = torch.tensor([1 + 2j, 3 + 4j])
    for back in pool.run(lambda mesh, *both: both, complexes, complexes.conj(), complexes.imag, complexes.conj().imag):
        assert [one.tolist() for one in back] == [[1 + 2j, 3 + 4j], [1 - 2j, 3 - 4j], [2, 4], [-2, -4]]
        back[0].zero_()  # and on the way back
        assert not any(one.any() for one in back)


def test_of_a_large_storage_only_what_is_used_travels():
    large = torch.zeros(1_000_000)
    assert len(parcels.pack([large[5], large[7:9]])) < 2_000
    assert len(parcels.pack([large[5:9], large[7:12], large[11]])) < 2_000
    assert len(parcels.pack([large[:10_000], large[:10_000].view(100, 100)])) < 42_000


def test_gradients_travel_with_their_tensors(pool):
    def lesson(mesh, w, w_, parameter):
        for some in (w, w_, parameter):
            some.grad = some.grad + mesh.ranks[0] if some is not w_ else w_.grad * 2
        return w, w_, parameter

    w, parameter = torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2))
    w_ = Mesh(2, devices=["cpu"]).shard(torch.ones(2, 4, requires_grad=True), dim=1)
    for some in (w, w_, parameter):
        (some * 3).sum().backward()
    (w0, w1), back_, (p0, p1) = pool.run(lesson, w, w_, parameter)
    assert type(p0) is torch.nn.Parameter and p1.requires_grad and type(w0) is torch.Tensor
    assert [one.grad.tolist() for one in (w0, w1, p0, p1)] == [[3, 3], [4, 4]] * 2
    assert [one.tolist() for one in back_.grad.shards] == [[[6, 6], [6, 6]]] * 2
    assert pool.run(lambda mesh, x: x.grad, torch.ones(2)) == [None, None]


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_a_quantized_tensor_stays_and_its_parts_go(pool):
    x = torch.quantize_per_tensor(torch.tensor([0.5, 1.0]), 0.5, 0, torch.qint8)
    with pytest.raises(parcels.CannotShip, match=r"argument 1 .*quantized.*: send x.dequantize\(\), or x.int_repr\(\)"):
        pool.run(lambda mesh, x: x, x)
    assert pool.run(lambda mesh, x: x.tolist(), x.dequantize()) == [[0.5, 1.0]] * 2
    assert pool.run(lambda mesh, x, scale: (x * scale).tolist(), x.int_repr(), x.q_scale()) == [[0.5, 1.0]] * 2


@dataclass(frozen=True)
class Layer:
    weight_: object
    name: str


def test_shards_in_a_dataclass_come_back_put_together(pool):
    found = pool.run(lambda mesh: {"layer": Layer(mesh.replicate(torch.ones(2)), f"of {mesh.ranks[0]}")})["layer"]
    assert type(found) is Layer and isinstance(found.weight_, Shards) and found.name == ["of 0", "of 1"]
    assert pool.run(lambda mesh: Layer(None, "alike")) == [Layer(None, "alike")] * 2


def test_an_error_of_ranks_can_be_pickled():
    error = pickle.loads(pickle.dumps(RankError([1, 2], "ranks 1 and 2 raised")))
    assert type(error) is RankError and error.ranks == [1, 2] and str(error) == "ranks 1 and 2 raised"


def test_what_ranks_printed_is_shown_when_they_fail(pool, capsys):
    def lesson(mesh):
        print("step 1: x =", 3 + mesh.ranks[0])
        if mesh.ranks == [1]:
            raise ValueError("here")
        return mesh.all_reduce(mesh.rank)

    with pytest.raises(RankError, match="rank 1 raised ValueError: here"):
        pool.run(lesson)
    assert "rank 1: step 1: x = 4\n" in capsys.readouterr().out
