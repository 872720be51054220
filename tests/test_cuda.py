"""On CUDA devices: the same values, gradients and records as on the CPU; memory; and ranks on GPUs."""

import pytest
import torch
from ranks_program import ANSWERS, COLLECTIVES, WRONG, checks, observe, parts
from test_ranks import LIMIT, TOLD, Launch, compare
from torch.cuda import comm
from twins import assert_a_model_is_its_twin

from shardlab import Mesh, Shards, exercises

CARDS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]
SEVERAL = pytest.mark.skipif(CARDS < 2, reason=f"wants two CUDA devices, and torch sees {CARDS}")
MB = 2**20


def cards(count):
    return [f"cuda:{index}" for index in range(count)]


@pytest.fixture(autouse=True)
def no_preference(monkeypatch):
    monkeypatch.delenv("SHARDLAB_DEVICES", raising=False)


# where the shards are


def test_shards_are_dealt_over_the_cards():
    n = 2 * CARDS + 1
    mesh = Mesh(n)
    assert [str(device) for device in mesh.devices] == (cards(CARDS) * 3)[:n]
    for x_ in (mesh.replicate(torch.ones(3)), mesh.shard(torch.ones(3 * n), dim=0), mesh.rank):
        assert [tensor.device for tensor in x_.shards] == mesh.devices
    assert Mesh(2, devices=["cuda"]).devices == [torch.device("cuda:0")] * 2


def test_a_card_that_is_not_there(monkeypatch):
    for ask in (lambda: Mesh(2, devices=[f"cuda:{CARDS}"]), Mesh):
        monkeypatch.setenv("SHARDLAB_DEVICES", f"cuda:{CARDS}")
        with pytest.raises(RuntimeError, match=f"cuda:{CARDS} was asked for.*{CARDS} CUDA devices"):
            ask()


def test_shards_on_the_wrong_device():
    mesh = Mesh(2)
    with pytest.raises(ValueError, match="the shards are on.*cpu.*but their places are.*cuda"):
        mesh.all_reduce(mesh.replicate(torch.ones(2)).cpu())


# layers


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_whole_transformer(n):
    assert_a_model_is_its_twin(Mesh(n))


# collectives

PLACES = {
    "one card": (4, ["cuda:0"]),
    "a card and the CPU": (3, ["cuda:0", "cpu"]),
    "a card each": pytest.param(min(CARDS, 4), cards(min(CARDS, 4)), marks=SEVERAL),
    "round robin": pytest.param(4, cards(2), marks=SEVERAL),
}


def places():
    for name, place in PLACES.items():
        n, devices, marks = (*place, ()) if type(place) is tuple else (*place.values, place.marks)
        yield pytest.param(n, devices, id=name, marks=marks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["even", "uneven", "empty"])
@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize(("n", "devices"), list(places()))
def test_collectives(n, devices, name, kind, dtype):
    mesh, cpu = Mesh(n, devices=devices), Mesh(n, devices=["cpu"])
    inputs = parts(cpu, cpu, name, kind, dtype)
    answers = []
    for one in (mesh, cpu):
        own = [tensor.to(device, copy=True) for tensor, device in zip(inputs, one.devices, strict=True)]
        leaves = [tensor.requires_grad_() for tensor in own]
        x_ = Shards(leaves, one)
        with one.record() as traffic:
            y_ = COLLECTIVES[name](one, x_)
            (y_ * y_).sum().backward()
        assert [tensor.device for tensor in y_.shards] == one.devices
        assert [tensor.device for tensor in x_.grad.shards] == one.devices
        places = [grad.untyped_storage().data_ptr() for grad in x_.grad.shards if grad.numel()]
        assert len(set(places)) == len(places)
        answers.append((y_.detach().shards + x_.grad.shards, traffic))
    (actual, moved), (expected, wanted) = answers
    assert moved == wanted
    low = dtype == torch.bfloat16
    for one, other in zip(actual, expected, strict=True):  # sums of 4 values near 10, twice
        torch.testing.assert_close(one.cpu(), other, **({"rtol": 0.03, "atol": 0.5} if low else {}))


@SEVERAL
def test_over_distinct_cards_the_collectives_of_cuda_run(monkeypatch):
    ran = []
    for name in ("reduce_add", "gather", "broadcast"):
        move = getattr(comm, name)
        monkeypatch.setattr(comm, name, lambda *args, move=move, name=name: ran.append(name) or move(*args))
    mesh = Mesh(CARDS)
    mesh.all_reduce(mesh.replicate(torch.ones(4)))
    mesh.all_gather(mesh.replicate(torch.ones(4)), dim=0)
    assert ran == ["reduce_add", "broadcast", "gather", "broadcast"]


def test_maximum():
    mesh = Mesh(3)
    y_ = mesh.all_reduce(mesh.shard(torch.tensor([1.0, 5.0, 3.0]), dim=0), op="max")
    assert y_.tolist() == [5.0]


# lessons


def test_a_split_mlp_is_the_dense_one():
    mesh = Mesh(4)
    X, A, B = (torch.randn(*shape, dtype=torch.float64) for shape in [(5, 6), (6, 8), (8, 3)])
    X_, A_, B_ = (
        mesh.replicate(X.requires_grad_()),
        mesh.shard(A.requires_grad_(), 1),
        mesh.shard(B.requires_grad_(), 0),
    )
    with mesh.record() as traffic:
        y_ = mesh.all_reduce(torch.nn.functional.gelu(mesh.copy(X_) @ A_) @ B_)
        (y_ * y_).sum().backward()
    assert [(call.phase, call.name) for call in traffic] == [("forward", "all_reduce"), ("backward", "all_reduce")]
    y = torch.nn.functional.gelu(X @ A) @ B
    (y * y).sum().backward()
    for rank in range(4):
        torch.testing.assert_close(y_.shards[rank].detach().cpu(), y.detach())
        torch.testing.assert_close(X_.grad.shards[rank].cpu(), X.grad)
        torch.testing.assert_close(A_.grad.shards[rank].cpu(), A.grad.tensor_split(4, 1)[rank])
        torch.testing.assert_close(B_.grad.shards[rank].cpu(), B.grad.tensor_split(4, 0)[rank])


@pytest.mark.parametrize("name", ANSWERS)
def test_exercises_are_checked_on_cuda(name):
    exercise = getattr(exercises, name)
    verdict = exercise.check(ANSWERS[name], gradients=True)
    assert verdict.passed, verdict.message
    assert not exercise.check(WRONG[name]).passed


# memory of one card


def taken(step):
    """Bytes that a step leaves allocated, and the most it held on top of what was there."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(0)
    torch.cuda.reset_peak_memory_stats(0)
    result = step()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated(0) - before, torch.cuda.max_memory_allocated(0) - before, result


def test_a_collective_on_one_card_takes_one_buffer():
    mesh = Mesh(8, devices=["cuda:0"])
    x_ = mesh.shard(torch.ones(8, MB), dim=0)  # 4 MB a shard
    size = 4 * MB
    assert taken(lambda: mesh.all_reduce(x_))[:2] == (size, size)
    assert taken(lambda: mesh.broadcast(x_))[:2] == (size, size)
    assert taken(lambda: mesh.all_gather(x_, dim=0))[:2] == (8 * size, 8 * size)
    assert taken(lambda: mesh.copy(x_))[:2] == (0, 0)
    assert taken(lambda: mesh.scatter(mesh.copy(x_), dim=1))[:2] == (0, 0)
    assert taken(lambda: mesh.reduce_scatter(x_, dim=1))[:2] == (size, size)
    assert taken(lambda: mesh.shift(x_))[:2] == (8 * size, 8 * size)  # each shard has its own


def test_placing_takes_what_the_shards_take():
    mesh, whole = Mesh(4, devices=["cuda:0"]), torch.ones(4, MB)
    assert taken(lambda: mesh.shard(whole, dim=0))[0] == 16 * MB
    assert taken(lambda: mesh.replicate(whole))[0] == 64 * MB


# ranks on GPUs


def on_cards(n, visible, backend):
    launch = Launch(n, cuda=visible)
    assert [rank["backend"] for rank in launch.ranks] == [backend] * n
    for name, check in checks(n).items():
        compare(launch, observe(check, n), [rank["checks"][name] for rank in launch.ranks])
    for rank in launch.ranks:
        assert set(rank["errors"]) == set(TOLD)
        assert all(passed and not wrong for passed, _, wrong, _ in rank["verdicts"].values())


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.ranks
def test_two_ranks_on_one_card_talk_through_host_memory():
    on_cards(2, "0", "gloo")


@SEVERAL
@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.ranks
def test_two_ranks_on_two_cards_talk_over_nccl():
    on_cards(2, "0,1", "nccl")
