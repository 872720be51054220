"""What draws random numbers is refused, and the ways that the errors tell give the same here and on ranks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shardlab import Mesh
from shardlab.layers import RowParallelLinear
from shardlab.plumbing import chance

CPU = ["cpu"]
DRAWING = {
    "dropout": lambda x_: F.dropout(x_, 0.5),
    "dropout as a module": lambda x_: nn.Sequential(nn.Identity(), nn.Dropout(0.1))(x_),
    "dropout in place": lambda x_: F.dropout(x_, 0.5, inplace=True),
    "dropout2d": lambda x_: F.dropout2d(x_, 0.5),
    "alpha_dropout": lambda x_: nn.AlphaDropout(0.2)(x_),
    "dropout of torch": lambda x_: torch.dropout(x_, 0.5, True),
    "dropout of torch, by name": lambda x_: torch.dropout(x_, p=0.5, train=True),
    "rrelu": lambda x_: nn.RReLU()(x_),
    "attention": lambda x_: F.scaled_dot_product_attention(x_, x_, x_, dropout_p=0.1),
    "attention by place": lambda x_: F.scaled_dot_product_attention(x_, x_, x_, None, 0.1),
    "gumbel_softmax": lambda x_: F.gumbel_softmax(x_),
    "bernoulli": lambda x_: x_.bernoulli(),
    "bernoulli in place": lambda x_: x_.bernoulli_(0.5),
    "multinomial": lambda x_: torch.multinomial(x_[0], 1),
    "normal": lambda x_: torch.normal(x_, 1.0),
    "poisson": lambda x_: torch.poisson(x_),
    "rand_like": lambda x_: torch.rand_like(x_),
    "randint_like": lambda x_: torch.randint_like(x_, 5),
    "randn, out": lambda x_: torch.randn(2, 3, 4, out=x_),
    "normal_": lambda x_: x_.normal_(),
    "init.normal_": lambda x_: nn.init.normal_(x_),
    "init.uniform_": lambda x_: nn.init.uniform_(x_),
    "init.trunc_normal_": lambda x_: nn.init.trunc_normal_(x_),
    "init.xavier_normal_": lambda x_: nn.init.xavier_normal_(x_),
    "init.xavier_uniform_": lambda x_: nn.init.xavier_uniform_(x_),
    "init.kaiming_normal_": lambda x_: nn.init.kaiming_normal_(x_),
    "init.kaiming_uniform_": lambda x_: nn.init.kaiming_uniform_(x_),
    "init.orthogonal_": lambda x_: nn.init.orthogonal_(x_),
}
QUIET = {
    "dropout, not training": lambda x: F.dropout(x, 0.5, training=False),
    "dropout of none": lambda x: F.dropout(x, 0.0),
    "a module at rest": lambda x: nn.Dropout(0.5).eval()(x),
    "dropout of torch": lambda x: torch.dropout(x, 0.5, False),
    "rrelu": lambda x: F.rrelu(x),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "zeros_": lambda x: nn.init.zeros_(x.clone()),
}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("draw", DRAWING.values(), ids=DRAWING)
def test_what_draws_is_refused_and_writes_nothing(draw, n):
    x_ = Mesh(n, devices=CPU).replicate(torch.full((2, 3, 4), 0.5))
    state = torch.get_rng_state()
    with pytest.raises(TypeError, match=r"draws random numbers\. In one process .* over ranks.* Instead .*"):
        draw(x_)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(shard, torch.full((2, 3, 4), 0.5)) for shard in x_.shards)


@pytest.mark.parametrize("function", QUIET.values(), ids=QUIET)
def test_what_draws_nothing_runs(function):
    x = torch.rand(2, 3, 4)
    for shard in function(Mesh(3, devices=CPU).replicate(x)).shards:
        assert torch.equal(shard, function(x))


def test_every_operation_that_torch_marks_as_random_is_refused():
    """Under each name by which a Shards can come to it."""
    marked = set()
    for schema in torch._C._jit_get_all_schemas():
        space, name = schema.name.split("::")
        operation = getattr(getattr(torch.ops.aten, name, None), schema.overload_name or "default", None)
        if space == "aten" and operation and torch.Tag.nondeterministic_seeded in operation.tags:
            marked.add(name)
    aside = {"lstm", "gru", "rnn_tanh", "rnn_relu", "miopen_rnn", "random"}  # their weights are plain; a module
    names = {name for name in marked - aside if not name.startswith("_")}
    assert {"dropout", "bernoulli_", "rand_like", "normal", "randn"} <= names
    for place in (torch, torch.Tensor, F):
        for name in names:
            if hasattr(place, name):
                assert getattr(place, name) in chance.INSTEAD, f"{place}.{name}"


def told(draw):
    with pytest.raises(TypeError) as error:
        draw(Mesh(2, devices=CPU).replicate(torch.ones(4, 4)))
    return str(error.value)


def test_the_way_for_dropout_is_the_dense_one_replicated_or_cut():
    message = told(lambda x_: F.dropout(x_, 0.5))
    for line in ("mask = torch.nn.functional.dropout(torch.ones(shape), p)", "x_ * mesh.replicate(mask)"):
        assert line in message and "x_ * mesh.shard(mask, dim)" in message
    X, mesh, p = torch.randn(6, 7), Mesh(3, devices=CPU), 0.3
    torch.manual_seed(1)
    wanted = F.dropout(X, p)
    torch.manual_seed(1)
    mask = F.dropout(torch.ones(6, 7), p)
    for shard in (mesh.replicate(X) * mesh.replicate(mask)).shards:
        torch.testing.assert_close(shard, wanted)
    torch.testing.assert_close(torch.cat((mesh.shard(X, 1) * mesh.shard(mask, 1)).shards, 1), wanted)


def test_the_way_for_initialisers_has_the_dense_fan():
    assert "initialise the dense tensor or layer, then split it" in told(nn.init.xavier_normal_)
    dense = nn.Linear(4096, 64)
    nn.init.xavier_normal_(dense.weight)
    row = RowParallelLinear(dense, Mesh(8, devices=CPU))
    assert abs(row.to_dense().weight.std() - (2 / (4096 + 64)) ** 0.5) < 1e-3
    with pytest.raises(TypeError, match="counts the inputs of what it is given"):
        nn.init.xavier_normal_(row.weight)


def test_the_way_for_all_else_is_to_draw_and_to_place():
    assert "draw from a plain tensor, and place what was drawn" in told(torch.rand_like)
    mesh, noise = Mesh(3, devices=CPU), torch.rand_like(torch.ones(7))
    assert torch.equal(torch.cat((mesh.shard(torch.zeros(7), 0) + mesh.shard(noise, 0)).shards), noise)
