"""The package on 1 and on 4 pretended GPUs, with 1 to 5 shards: the values and gradients of the CPU, each where its
shard lives. (The fixture `machine` sees to it that nothing meets on two devices.)"""

import inspect

import pytest
import torch
from ranks_program import COLLECTIVES
from torch import nn
from twins import assert_a_model_is_its_twin

from shardlab import Mesh, Shards, exercises, labs
from shardlab.__main__ import main
from shardlab.compare import assert_close, compare
from shardlab.exercises.exercise import Exercise
from shardlab.exercises.real_ranks import OnRanks
from shardlab.exercises.watch import watch_here
from shardlab.layers import ColumnParallelLinear, RowParallelLinear, clip_grad_norm_

SHARDS = range(1, 6)
FLOAT = torch.float64


def same(x_, y_):
    """Shards with equal values, each in its place on its own mesh."""
    for one_ in (x_, y_):
        assert [tensor.device for tensor in one_.shards] == one_.mesh.devices
    for one, other in zip(x_.shards, y_.shards, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu())


# who lives where


def test_shards_are_dealt_over_the_cards(machine, capsys):
    cards = [f"cuda:{index % machine.count}" for index in range(5)]
    mesh = Mesh(5)
    assert [*map(str, mesh.devices)] == cards
    for x_ in (mesh.replicate(torch.ones(3)), mesh.shard(torch.ones(7), dim=0), mesh.rank):
        assert [str(tensor.device) for tensor in x_.shards] == cards
    assert {*cards} == {*str(mesh.replicate(torch.ones(3))).split("\n")[0].replace(",", "").split()[4:]}
    main([])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].endswith(f"CUDA devices: {machine.count}")
    assert rows[1:] == [f"shard {r} on {cards[r]} (a pretended GPU, 1 GiB)" for r in range(max(machine.count, 2))]


def test_a_card_that_is_not_there(machine, monkeypatch):
    with pytest.raises(RuntimeError, match=f"cuda:7 was asked for.*{machine.count} CUDA devices"):
        Mesh(devices=["cuda:7"])
    monkeypatch.setenv("SHARDLAB_DEVICES", "cpu,cuda:0")
    assert [*map(str, Mesh(3).devices)] == ["cpu", "cuda:0", "cpu"]


# collectives, layers, compare

INPUTS = {  # of each collective, but where every shard holds a value of the same shape
    "copy": lambda mesh, X: mesh.replicate(X),
    "scatter": lambda mesh, X: mesh.replicate(X),
    "all_gather": lambda mesh, X: mesh.shard(X, dim=1),
    "all_gather_partial": lambda mesh, X: mesh.shard(X, dim=0),
    "all_to_all": lambda mesh, X: mesh.shard(X, dim=1),
    "shift": lambda mesh, X: mesh.shard(X, dim=1),
}


def of_its_own(mesh, X):
    return (mesh.replicate(X.detach()) * (mesh.rank + 1)).detach().requires_grad_(X.requires_grad)


def there_and_back(name, mesh, X):
    x_ = INPUTS.get(name, of_its_own)(mesh, X)
    with mesh.record() as traffic:
        y_ = COLLECTIVES[name](mesh, x_)
        (y_ * y_).sum().backward()
    return y_.detach(), x_.grad, traffic


@pytest.mark.parametrize("name", COLLECTIVES)
def test_collectives(machine, name):
    X = torch.randn(4, 7, dtype=FLOAT, requires_grad=True)
    for n in SHARDS:
        *actual, moved = there_and_back(name, Mesh(n), X)
        *expected, wanted = there_and_back(name, Mesh(n, devices=["cpu"]), X)
        assert moved == wanted
        for one_, other_ in zip(actual, expected, strict=True):
            same(one_, other_)


def test_collectives_without_a_gradient_and_along_an_axis(machine):
    values = [torch.arange(12).reshape(3, 4), torch.randn(3, 4, dtype=torch.complex64), torch.randn(3, 4)]
    for value in values:  # what is not floating does not go by nccl
        for axes in ({"tp": 4}, {"dp": 2, "tp": 2}):
            got, want = Mesh(**axes)["tp"], Mesh(**axes, devices=["cpu"])["tp"]
            for move in COLLECTIVES.values():
                same(move(got, of_its_own(got, value)), move(want, of_its_own(want, value)))
    same(got.all_reduce(got.rank * 2, op="max"), want.all_reduce(want.rank * 2, op="max"))


def test_one_shard_s_loss_and_the_loss_of_all(machine):
    """Gradients of the shards that a loss leaves out are zeros, which torch makes; and a second backward adds up."""
    for n in SHARDS:
        mesh, W = Mesh(n), torch.randn(6, 5, dtype=FLOAT)
        W_ = mesh.shard(W.requires_grad_(), dim=1)
        x_ = mesh.replicate(torch.ones(2, 6, dtype=FLOAT, requires_grad=True))
        for _ in range(2):
            mesh.all_reduce((mesh.copy(x_) @ W_).sum()).sum().backward()
        assert [grad.device for grad in W_.grad.shards] == mesh.devices
        for grad in x_.grad.shards:
            torch.testing.assert_close(grad.cpu(), 2 * W.detach().sum(1).expand(2, -1))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_layers(machine, bias):
    for n in SHARDS:
        mesh, x = Mesh(n), torch.randn(3, 5, dtype=FLOAT)
        up, down = nn.Linear(5, 7, bias, dtype=FLOAT), nn.Linear(7, 4, bias, dtype=FLOAT)
        dense = nn.Sequential(up, nn.Tanh(), down)
        sharded = nn.ModuleList([ColumnParallelLinear(up, mesh), RowParallelLinear(down, mesh)])
        dense(x).square().sum().backward()
        y_ = sharded[1](torch.tanh(sharded[0](mesh.replicate(x))))
        y_.square().sum().backward()
        same(y_.detach(), Mesh(n, devices=["cpu"]).replicate(dense(x).detach()))
        norm, wanted = clip_grad_norm_(sharded, 0.1), nn.utils.clip_grad_norm_(dense.parameters(), 0.1)
        torch.testing.assert_close(norm.cpu(), wanted)
        for model in (dense, sharded):
            torch.optim.AdamW(model.parameters(), lr=0.1).step()
        for layer, twin in zip(sharded, (up, down), strict=True):
            assert [p.device for p in layer.weight.shards] == mesh.devices
            assert str(layer.to_dense().weight.device) == "cuda:0"
            torch.testing.assert_close(layer.to_dense().weight.detach().cpu(), twin.weight.detach())


def test_a_whole_transformer(machine):
    for n in SHARDS:
        assert_a_model_is_its_twin(Mesh(n))


def test_compare(machine):
    X, W, b = torch.randn(3, 8), torch.randn(8, 6), torch.randn(6)
    for n in SHARDS:
        mesh = Mesh(n)
        y_ = mesh.all_reduce(mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)) + mesh.replicate(b)
        assert_close(y_, X, W, b)
        assert_close(torch.relu(y_), X, W, b, f=torch.relu)
        assert not compare(y_ + 1, X, W, b).passed
        assert_close(mesh.replicate(X) @ mesh.shard(W, dim=1), X, W, dim=1)
        assert_close(y_.shards[-1], X, W, b, parts=n)


# exercises

JUDGED = {
    name: exercise
    for name, exercise in ((name, getattr(exercises, name)) for name in exercises.__all__)
    if isinstance(exercise, Exercise) and not isinstance(exercise, OnRanks)  # those start processes, with no pretence
}
WITH_ANSWERS = {name: exercise for name, exercise in JUDGED.items() if hasattr(exercise, "right")}


def test_where_the_shards_are(machine):
    report, mistakes = exercises.report_devices, set()
    assert report.check(lambda mesh, X: [str(shard.device) for shard in mesh.replicate(X).shards])
    for wrong in (
        lambda mesh, X: [str(X.device) for _ in mesh.replicate(X).shards],
        lambda mesh, X: [*dict.fromkeys(map(str, mesh.devices))],
        lambda mesh, X: [str(device) for device in mesh.devices],
    ):
        mistakes.add(report.check(wrong).mistake)
    assert mistakes == {"the device of X itself", "each device once", "not placed"}


@pytest.mark.parametrize("name", WITH_ANSWERS)
def test_right_answers_pass_and_wrong_ones_are_told_their_mistake(machine, name):
    """A check takes 1 to 4 shards. (A mistake in twenty is enough: how they differ is in their numbers, which are the
    CPU's.)"""
    exercise = WITH_ANSWERS[name]
    verdict = exercise.check(exercise.right, gradients=True)
    assert verdict.passed, verdict
    for mistake in exercise.mistakes[machine.count :: 20]:
        verdict = exercise.check(mistake.ways[-1])
        verdict = exercise.check(mistake.ways[-1], gradients=True) if verdict.passed else verdict
        assert verdict.mistake == mistake.name, verdict


@pytest.mark.parametrize("machine", [4], indirect=True, ids="{} GPUs".format)
@pytest.mark.parametrize("name", WITH_ANSWERS)
def test_no_way_of_a_mistake_forgets_the_device(machine, name):
    """Each is made on 4 shards, whatever it comes to: what meets on two devices, `machine` sees."""
    case = max(WITH_ANSWERS[name].cases(), key=lambda case: case.n)
    seen = [watch_here(way, case, True) for mistake in WITH_ANSWERS[name].mistakes for way in mistake.ways]
    assert case.n == 4 and any(each.values for each in seen)


def test_an_answer_that_forgets_the_device_is_told_so(machine):
    pieces = lambda mesh, W: [W.tensor_split(mesh.size, dim=1)[rank] for rank in mesh.ranks]  # noqa: E731
    verdict = exercises.uneven_linear.check(
        lambda mesh, X, W: mesh.all_gather(X @ Shards(pieces(mesh, W), mesh), dim=1)
    )
    assert not verdict.passed and verdict.mistake == "an error" and "same device" in verdict.message
    machine.mixed.clear()


# labs

STATES = [
    (name, function)
    for name, function in vars(labs).items()
    if name.endswith(("_picture", "_result"))
    and not name.startswith(("gates_", "ranks_"))  # lab 13's ranks are processes
]


@pytest.mark.parametrize("name, function", STATES, ids=dict(STATES))
def test_pictures_and_results_of_the_labs(machine, name, function):
    if "shards" not in inspect.signature(function).parameters:
        function()  # it goes through several by itself
        return
    shards = getattr(labs, name.rpartition("_")[0])().controls["shards"]
    for n in SHARDS:
        if n in getattr(shards, "options", SHARDS):  # some labs have a few numbers of shards
            function(shards=n)


@pytest.mark.parametrize("name", [name for name in labs.LABS if name not in ("gates", "ranks")])
@pytest.mark.parametrize("machine", [4], indirect=True)  # the pictures above are drawn on all
def test_labs_through_their_states(machine, name):
    factory, draw, (start, *changes) = labs.LABS[name]
    lab = factory(**start)
    for change in changes:
        for control, value in change.items():
            lab.controls[control].value = value
        assert lab.screen.value == draw(**lab.state)


def test_lab_00_says_what_is_real(machine):
    for gpus in (0, 1, 2, 4, 8):
        devices, real = labs.devices_result(shards=5, gpus=gpus)
        assert devices == [f"cuda:{rank % (gpus or machine.count)}" for rank in range(5)]
        assert real == (gpus <= machine.count)
