"""What every layer has in common: what torch does with modules it does with them, or an error says what to write
instead. In one process, and over two real ranks."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from shardlab import Mesh, Shards
from shardlab.layers import ColumnParallelLinear, RowParallelLinear, ShardedModule, clip_grad_norm_

CPU = ["cpu"]
KINDS = [ColumnParallelLinear, RowParallelLinear]
each_kind = pytest.mark.parametrize("kind", KINDS)


def layer_of(kind, n, dense=None):
    return kind(dense or nn.Linear(6, 10), Mesh(n, devices=CPU))


def entering(layer, X):
    return layer.mesh.replicate(X) if type(layer) is ColumnParallelLinear else layer.mesh.shard(X, dim=-1)


# a layer of a learner's own


def test_held_parameters_are_trained_unless_they_were_frozen():
    layer = ShardedModule(Mesh(3, devices=CPU))
    layer.hold("own", torch.ones(7, 2), dim=0)
    layer.hold("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    assert layer.held("own").requires_grad and not layer.held("frozen").requires_grad
    assert [list(tensor.shape) for tensor in layer.held("own").shards] == [[3, 2], [2, 2], [2, 2]]
    assert torch.equal(layer.whole("own"), torch.ones(7, 2)) and torch.equal(layer.whole("frozen"), torch.ones(2))
    assert layer.whole("own").requires_grad and not layer.whole("frozen").requires_grad
    assert layer.dims == {"own": 0, "frozen": None}
    layer.whole("frozen").data.zero_()
    assert layer.frozen_0.tolist() == [1, 1]


# saving and loading


@each_kind
@pytest.mark.parametrize("nested", [False, True])
def test_a_state_of_other_shards_is_refused_and_the_way_by_the_dense_layer_works(kind, nested):
    dense = nn.Linear(6, 10)
    wrap = (lambda layer: nn.Sequential(nn.Identity(), layer)) if nested else (lambda layer: layer)
    two, three = wrap(layer_of(kind, 2, dense)), wrap(layer_of(kind, 3))
    told = rf"{kind.__name__} on Mesh\(tp=3\) wants .*weight_0, .*weight_1, .*weight_2, but the state has .*"
    for state in (two.state_dict(), wrap(dense).state_dict(), wrap(layer_of(kind, 8)).state_dict()):
        for strict in (True, False):
            with pytest.raises(RuntimeError, match=told + r"layer\.to_dense\(\) where it fits"):
                three.load_state_dict(state, strict=strict)
    mine = two[1] if nested else two
    again = kind(mine.to_dense(), Mesh(3, devices=CPU))
    assert torch.equal(again.to_dense().weight, dense.weight) and torch.equal(again.to_dense().bias, dense.bias)


def test_a_state_that_leaves_a_layer_out_is_torchs_to_judge():
    layer = layer_of(RowParallelLinear, 2)
    missing = layer.load_state_dict({}, strict=False).missing_keys
    assert missing == ["weight_0", "weight_1", "bias_0", "bias_1"]
    with pytest.raises(RuntimeError, match='(?s)Missing key.*"weight_0".*Unexpected key.*"else"'):
        layer.load_state_dict({"else": torch.ones(1)})
    with pytest.raises(RuntimeError, match='Unexpected key.*"weight_norm"'):
        layer.load_state_dict(layer.state_dict() | {"weight_norm": torch.ones(1)})


@each_kind
def test_a_layer_is_saved_as_its_state_and_as_its_dense_twin(kind):
    layer, file = layer_of(kind, 3), io.BytesIO()
    for save in (pickle.dumps, lambda model: torch.save(model, io.BytesIO())):
        for what in (layer, nn.Sequential(layer), layer.mesh):
            with pytest.raises(
                TypeError, match=r"make it there, with Mesh\(tp=3\).*layer\.state_dict\(\).*to_dense\(\)"
            ):
                save(what)
    torch.save({"shards": layer.state_dict(), "dense": layer.to_dense().state_dict()}, file)
    file.seek(0)
    states, other, dense = torch.load(file), layer_of(kind, 3), nn.Linear(6, 10)
    other.load_state_dict(states["shards"])
    dense.load_state_dict(states["dense"])
    for again in (other.to_dense(), layer_of(kind, 2, dense).to_dense()):
        assert torch.equal(again.weight, layer.to_dense().weight) and torch.equal(again.bias, layer.to_dense().bias)
    twin = copy.deepcopy(layer)
    assert (
        twin.mesh is layer.mesh and torch.equal(twin.weight_0, layer.weight_0) and twin.weight_0 is not layer.weight_0
    )


def test_a_frozen_and_idle_layer_comes_back_so():
    dense = nn.Linear(4, 6).eval()
    dense.bias.requires_grad_(False)
    again = layer_of(ColumnParallelLinear, 2, dense).eval().to_dense()
    assert again.weight.requires_grad and not again.bias.requires_grad and not again.training


# what torch does with modules


@each_kind
def test_forward_hooks_run_and_backward_hooks_say_where_they_would_work(kind):
    layer, seen = layer_of(kind, 2), []
    for register in (layer.register_full_backward_hook, layer.register_full_backward_pre_hook):
        with pytest.raises(RuntimeError, match=r"forward hook, and in it a hook on each tensor of its output's y_\.s"):
            register(lambda *_: None)

    def after(module, args, y_):
        for tensor in y_.shards:
            tensor.register_hook(seen.append)

    layer.register_forward_hook(after)
    layer(entering(layer, torch.ones(2, 6))).sum().backward()
    assert [list(grad.shape) for grad in seen] == [[2, 5 if kind is ColumnParallelLinear else 10]] * 2


@each_kind
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_is_refused_and_the_other_one_gives_the_same_gradients(kind):
    layer = layer_of(kind, 3)
    X = torch.randn(2, 6)
    with pytest.raises(RuntimeError, match=r"reentrant checkpoint.*use_reentrant=False"):
        checkpoint(layer, layer.mesh.replicate(X.requires_grad_()), use_reentrant=True)
    x_ = entering(layer, X.detach().requires_grad_())
    checkpoint(layer, x_, use_reentrant=False).square().sum().backward()
    found = [x_.grad, layer.weight.grad, layer.bias.grad]
    layer.zero_grad()
    x_.grad = None
    layer(x_).square().sum().backward()
    for got_, want_ in zip(found, [x_.grad, layer.weight.grad, layer.bias.grad], strict=True):
        torch.testing.assert_close(got_.shards, want_.shards)
    with torch.no_grad():
        assert not layer(x_).requires_grad  # no gradient is no error, outside of a checkpoint


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_of_bare_shards_is_told_at_its_backward():
    mesh = Mesh(3, devices=CPU)
    x_, other_ = (mesh.replicate(torch.ones(2, requires_grad=True)) for _ in range(2))
    with pytest.raises(RuntimeError, match="nothing to go back through.*use_reentrant=False"):
        checkpoint(torch.sin, x_, use_reentrant=True).sum().backward()
    checkpoint(torch.sin, x_, use_reentrant=False).sum().backward()
    other_.sin().sum().backward()
    assert all(map(torch.equal, x_.grad.shards, other_.grad.shards))


WAYS = {
    "backward of a list": lambda loss_, leaves: loss_.backward(inputs=leaves),
    "backward of an iterator": lambda loss_, leaves: loss_.backward(inputs=iter(leaves)),
    "autograd.backward": lambda loss_, leaves: torch.autograd.backward(loss_, inputs=leaves),
    "autograd.grad": lambda loss_, leaves: torch.autograd.grad(loss_, leaves),
    "autograd.grad of an iterator": lambda loss_, leaves: torch.autograd.grad(loss_, iter(leaves)),
}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_a_layers_parameters_are_those_that_backward_leaves(way):
    mesh = Mesh(3, devices=CPU)
    block = nn.Sequential(ColumnParallelLinear(nn.Linear(4, 7), mesh), RowParallelLinear(nn.Linear(7, 5), mesh))
    x_ = mesh.replicate(torch.ones(2, 4, requires_grad=True))
    leaves = list(block.parameters())
    block(x_).square().sum().backward()
    wanted = [parameter.grad for parameter in leaves]
    block.zero_grad()
    x_.grad = None
    found = WAYS[way](block(x_).square().sum(), leaves) or [parameter.grad for parameter in leaves]
    for got, want in zip(found, wanted, strict=True):
        assert got is not want and torch.equal(got, want)
    assert x_.grad is None


def test_gradients_of_shards_and_plain_parameters_together():
    layer = layer_of(ColumnParallelLinear, 2)
    x_ = layer.mesh.replicate(torch.ones(2, 6, requires_grad=True))
    leaves = [layer.bias_1, layer.weight, x_, layer.bias_1]
    one, weight_, x_grad_, same = torch.autograd.grad(layer(x_).sum(), leaves)
    assert torch.equal(one, torch.full((5,), 2.0)) and torch.equal(same, one)
    assert torch.equal(weight_.shards[1], torch.full((5, 6), 2.0))
    torch.testing.assert_close(x_grad_.shards[0], layer.to_dense().weight.sum(0).expand(2, 6).detach())


@each_kind
def test_it_changes_its_dtype_and_stays_where_its_mesh_is(kind):
    layer, X = layer_of(kind, 3), torch.ones(2, 6)
    for change, dtype in ((layer.half, torch.float16), (layer.bfloat16, torch.bfloat16), (layer.double, torch.float64)):
        changed = change()
        assert changed is layer and {p.dtype for p in layer.parameters()} == {dtype}
        assert layer(entering(layer, X.to(dtype))).dtype == dtype == layer.to_dense().weight.dtype
    layer.cpu().to("cpu", torch.float32)
    with pytest.raises(RuntimeError, match=rf"{kind.__name__} on Mesh\(tp=3\) would go to meta, .*to_dense\(\)"):
        layer.to("meta")
    with pytest.raises(RuntimeError, match="would go to meta"):
        nn.Sequential(layer).to_empty(device="meta")
    assert {p.device.type for p in layer.parameters()} == {"cpu"}


@each_kind
@pytest.mark.parametrize(
    "take",
    [
        lambda layer: prune.l1_unstructured(layer, "weight_0", amount=0.5),
        lambda layer: parametrizations.weight_norm(layer, "weight_0"),
        lambda layer: nn.utils.spectral_norm(layer, "weight_0"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_takes_a_parameter_away_is_told_to_take_the_dense_one(kind, take):
    layer = layer_of(kind, 2)
    take(layer)
    with pytest.raises(RuntimeError, match=r"lost its parameter 'weight_0'.*Apply.*to the dense layer.*\(remove\)"):
        layer(entering(layer, torch.ones(2, 6)))


@each_kind
def test_a_pruned_and_normed_dense_layer_can_be_split(kind):
    dense = nn.Linear(6, 10)
    parametrizations.weight_norm(dense, "weight")
    parametrize.remove_parametrizations(dense, "weight")
    prune.l1_unstructured(dense, "weight", amount=0.5)
    prune.remove(dense, "weight")
    layer = layer_of(kind, 3, dense)
    assert torch.equal(layer.to_dense().weight, dense.weight) and (dense.weight == 0).sum() == 30


def test_it_is_made_from_a_linear_layer():
    with pytest.raises(TypeError, match="ColumnParallelLinear is made from an nn.Linear, not from a Conv2d"):
        layer_of(ColumnParallelLinear, 2, nn.Conv2d(2, 2, 1))


def test_other_uses_of_a_module():
    layer, x = layer_of(ColumnParallelLinear, 2), torch.ones(3, 6)
    y_ = layer(layer.mesh.replicate(x))
    doubled = {name: 2 * parameter for name, parameter in layer.named_parameters()}
    twice_ = torch.func.functional_call(layer, doubled, layer.mesh.replicate(x))
    torch.testing.assert_close(twice_.shards, (2 * y_).shards)
    average = torch.optim.swa_utils.AveragedModel(layer)
    average.update_parameters(layer_of(ColumnParallelLinear, 2))
    assert average(layer.mesh.replicate(x)).shape == y_.shape
    layer.requires_grad_(False)
    assert not layer(layer.mesh.replicate(x)).requires_grad


def test_a_scaled_loss_trains_as_the_dense_twin():
    dense, X = nn.Linear(6, 10), torch.randn(3, 6)
    layer = layer_of(RowParallelLinear, 3, copy.deepcopy(dense))
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2)]
    steppers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (dense, layer)]
    scalers[0].scale(dense(X).square().sum()).backward()
    loss_ = layer(layer.mesh.shard(X, dim=-1)).square().sum()
    Shards(scalers[1].scale(loss_.shards), layer.mesh).backward()
    for scaler, stepper in zip(scalers, steppers, strict=True):
        scaler.step(stepper)
    torch.testing.assert_close(layer.to_dense().weight, dense.weight)
    torch.testing.assert_close(layer.to_dense().bias, dense.bias)


# over real ranks


def training(mesh, first, second, X):
    """Names, a clipped step, and the way back to the dense layers; the same in one process and on ranks."""
    up, down = ColumnParallelLinear(first, mesh), RowParallelLinear(second, mesh)
    block = nn.Sequential(up, nn.Tanh(), down)
    block(mesh.replicate(X)).square().sum().backward()
    norm = clip_grad_norm_(block, 0.5)
    grads = torch.autograd.grad(block(mesh.replicate(X)).square().sum(), list(block.parameters()))
    with torch.no_grad():  # SGD by hand: torch.optim takes seconds to import
        for parameter in block.parameters():
            parameter -= 0.1 * parameter.grad
    whole = [parameter.detach() for layer in (up, down) for parameter in layer.to_dense().parameters()]
    return [name for name, _ in block.named_parameters()], norm, [grad.norm() for grad in grads], whole


def loading(mesh, layer, state):
    """The state of a one-process layer on a rank, and that of another rank."""
    mine = ColumnParallelLinear(layer, mesh)
    mine.load_state_dict(state)
    other = {name: tensor for name, tensor in state.items() if name.endswith(f"_{1 - mesh.ranks[0]}")}
    try:
        mine.load_state_dict(other)
    except RuntimeError as error:
        return mine.to_dense().weight.detach(), str(error)


@pytest.mark.ranks
def test_names_norms_and_steps_are_on_ranks_what_they_are_here(pool):
    first, second, X = nn.Linear(5, 7), nn.Linear(7, 3), torch.randn(2, 5)
    found = pool.run(training, first, second, X, limit=60)
    names, norm, grads, whole = training(Mesh(2, devices=CPU), first, second, X)
    dense = nn.Sequential(first, nn.Tanh(), second)
    dense(X).square().sum().backward()
    wanted = nn.utils.clip_grad_norm_(dense.parameters(), 0.5)
    torch.testing.assert_close(norm, wanted)
    for rank, (own_names, own_norm, own_grads, own_whole) in enumerate(found):
        assert own_names == [f"{i}.{name}_{rank}" for i in "02" for name in ("weight", "bias")]
        assert {*own_names} == {name for name in names if name.endswith(f"_{rank}")}
        torch.testing.assert_close(own_norm, wanted)
        torch.testing.assert_close(own_grads, grads[rank::2])
        torch.testing.assert_close(own_whole, whole)
    assert sorted(names) == sorted(name for own_names, *_ in found for name in own_names)


@pytest.mark.ranks
def test_a_one_process_state_loads_on_ranks_each_its_own(pool):
    saved = layer_of(ColumnParallelLinear, 2)
    for rank, (weight, told) in enumerate(pool.run(loading, nn.Linear(6, 10), saved.state_dict())):
        assert torch.equal(weight, saved.to_dense().weight)
        assert f"wants weight_{rank}, but the state has weight_{1 - rank}" in told
