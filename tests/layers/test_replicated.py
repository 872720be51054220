"""A dense module on every shard: the values, gradients, statistics and state of the dense one."""

import copy

import pytest
import torch
from torch import nn

from shardlab import Mesh
from shardlab.layers import ColumnParallelLinear, Replicated, clip_grad_norm_

CPU = ["cpu"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.first_weight = nn.Parameter(torch.ones(6))  # joined by _, its name is that of first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x))) * self.first_weight


MODULES = {
    "linear": lambda: nn.Linear(6, 3),
    "layer norm": lambda: nn.LayerNorm(6),
    "RMS norm": lambda: nn.RMSNorm(6),
    "convolution": lambda: nn.Conv1d(4, 5, 3),
    "batch norm": lambda: nn.BatchNorm1d(4),
    "PReLU": lambda: nn.PReLU(),
    "nested": lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Sequential(nn.Linear(8, 6, bias=False))),
    "tied": Tied,
    "transformer": lambda: nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_values_gradients_and_state_are_the_dense_modules(make, training):
    torch.manual_seed(0)
    mesh, dense, X = Mesh(3, devices=CPU), make().train(training), torch.randn(2, 4, 6)
    layer = Replicated(dense, mesh)
    for _ in range(2):
        x, x_ = X.clone().requires_grad_(), mesh.replicate(X.clone().requires_grad_())
        with mesh.record() as traffic:
            y, y_ = dense(x), layer(x_)
            y.square().sum().backward()
            y_.square().sum().backward()
    assert traffic == []
    torch.testing.assert_close(y_.shards, [y] * 3)
    torch.testing.assert_close(x_.grad.shards, [x.grad] * 3)
    parameters = [layer.held(name) for name in layer.dims]
    assert len(parameters) == len(list(dense.parameters())) and {*layer.dims.values()} == {None}
    torch.testing.assert_close(
        clip_grad_norm_(layer, 1e9), nn.utils.clip_grad_norm_(dense.parameters(), 1e9), rtol=1e-4, atol=1e-4
    )
    wanted = sorted((parameter.grad.norm().item() for parameter in dense.parameters()), reverse=True)
    for shard in range(3):
        norms = sorted((p_.grad.shards[shard].norm().item() for p_ in parameters), reverse=True)
        assert norms == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    again = layer.to_dense()
    assert list(again.state_dict()) == list(dense.state_dict())
    torch.testing.assert_close(again.state_dict(), dense.state_dict())
    assert len(list(again.parameters())) == len(list(dense.parameters())) and again.training == training
    torch.testing.assert_close(again(X), dense(X))


def test_it_is_an_ordinary_module_of_its_own():
    dense, mesh = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), Mesh(2, devices=CPU)
    layer, other, x_ = Replicated(dense, mesh), Replicated(dense, mesh), mesh.replicate(torch.randn(3, 4))
    assert [name for name, _ in layer.named_parameters()][:2] == ["0_weight_0", "0_weight_1"]
    layer(x_)
    twin = copy.deepcopy(layer)
    nn.init.zeros_(twin.held("0_weight").shards[0])
    assert twin(x_).shards[0].unique().numel() <= 4 and layer.to_dense()[0].weight.any() and dense[0].weight.any()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x_).shards[1], layer.eval()(x_).shards[1])
    other.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
    other.double()
    assert other(x_.double()).dtype == torch.float64


def test_what_cannot_be_replicated_says_so():
    mesh = Mesh(2, devices=CPU)
    for module in (nn.Sequential(ColumnParallelLinear(nn.Linear(2, 2), mesh)), nn.LSTM(2, 2)):
        with pytest.raises(TypeError, match="(ColumnParallelLinear|LSTM) in it does not run so"):
            Replicated(module, mesh)
    with pytest.raises(TypeError, match="`dropout` draws random numbers"):
        Replicated(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), mesh)(mesh.replicate(torch.ones(2)))
