"""The pretended machine itself: it finds what a CUDA device refuses, lets pass what it allows, and leaves nothing."""

import weakref

import numpy as np
import pytest
import torch
from pretended import pretended_cuda

from shardlab import Mesh, Shards

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="here are real ones")


def on(index, *shape, **options):
    return torch.ones(*shape or (3,), device=f"cuda:{index}", **options)


class Strays(torch.autograd.Function):
    """Its backward leaves the gradient on the first device."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to("cuda:0")


class MixesLate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.ones(3)


def in_place(x):
    x += torch.ones(3)


def written(number):
    number += on(0, 1)[0]


def indexed(x, index):
    x[index] = 1.0


MESH = ["cuda:0", "cuda:1"]
MIXED = {
    "an operator": lambda: on(0) + on(1),
    "a plain tensor beside it": lambda: on(0) * torch.ones(3),
    "a product": lambda: on(1, 2, 3) @ torch.ones(3),
    "in place": lambda: in_place(on(0)),
    "into a number on the CPU": lambda: written(torch.tensor(1.0)),
    "out=": lambda: torch.maximum(on(0), on(0), out=on(1)),
    "a list": lambda: torch.cat([on(0), on(1)]),
    "a factory without a device": lambda: torch.where(on(0) > 0, on(0), torch.zeros(3)),
    "a number where none may be": lambda: torch.stack([on(0)[0], torch.tensor(1.0)]),
    "an index on another card": lambda: on(0)[on(1).long()],
    "an index in an assignment": lambda: indexed(on(0), on(1).long()),
    "an index where it may not be on the CPU": lambda: on(0).index_select(0, torch.tensor([1])),
    "a CPU tensor indexed by a card": lambda: torch.ones(3)[on(0).long()],
    "the CPU's random numbers": lambda: torch.randn(2, device="cuda:0", generator=torch.Generator()),
    "a collective by hand": lambda: sum(Mesh(2, devices=MESH).replicate(torch.ones(3)).shards),
    "shards that were not placed": lambda: Shards([*torch.eye(2)], Mesh(2, devices=MESH)) + Mesh(2, devices=MESH).rank,
    "in a backward": lambda: MixesLate.apply(on(1, requires_grad=True)).sum().backward(),
    "a gradient that strays": lambda: Strays.apply(on(1, requires_grad=True)).sum().backward(),
    "a gradient that strays over": lambda: Strays.apply(on(1, requires_grad=True) * 2).sum().backward(),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=[*MIXED])
def test_what_meets_on_two_devices_is_found(mix):
    with pretended_cuda(2) as machine:
        with pytest.raises(RuntimeError, match="same device|expected device|device type for generator"):
            mix()
        assert len(machine.mixed) == 1


def test_what_python_itself_asks_is_answered_as_on_cuda():
    with pretended_cuda(2):
        x = on(1)
        assert (x.device, x.is_cuda, x.get_device()) == (torch.device("cuda:1"), True, 1)
        assert repr(x) == "tensor([1., 1., 1.], device='cuda:1')"
        assert f"{x.sum():.1f} {x.tolist()} {x.sum().item()}" == "3.0 [1.0, 1.0, 1.0] 3.0"
        for ask in (x.numpy, lambda: np.asarray(x)):
            with pytest.raises((RuntimeError, TypeError)):
                ask()
        with pytest.raises(AssertionError, match="'device' do not match: cuda:1 != cpu"):
            torch.testing.assert_close(x, torch.ones(3))
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.ones(3).to("cuda:2")


ALLOWED = {  # what CUDA lets pass, and where its result is
    "cuda:1": [
        lambda: on(1) + 2,
        lambda: torch.tensor(2.0) * on(1),
        lambda: torch.where(on(1) > 0, on(1), torch.tensor(0.0)),
        lambda: on(1).masked_fill(on(1) > 2, torch.tensor(0.0)),
        lambda: on(1)[torch.tensor([0, 2])],
        lambda: torch.empty(3, device="cuda:1").copy_(on(0)),
        lambda: torch.zeros_like(on(1)) + on(1).new_zeros(3),
        lambda: torch.tensor([1.0, 2.0], device="cuda:1"),
        lambda: on(0).to(on(1)),
        lambda: torch.ones(3).cuda(1),
    ],
    "cuda:0": [lambda: on(1).to("cuda"), lambda: on(0).to(torch.float64), lambda: torch.ones(3).cuda()],
    "cpu": [lambda: on(1).cpu(), lambda: on(1).to("cpu", torch.float64), lambda: torch.ones(3).copy_(on(1))],
}


@pytest.mark.parametrize("place", ALLOWED)
def test_what_may_meet_does(place):
    with pretended_cuda(2) as machine:
        assert [str(ask().device) for ask in ALLOWED[place]] == [place] * len(ALLOWED[place])
        x = on(1)
        assert x.to("cuda:1") is x and x.cpu() is not x
        assert not machine.mixed


def test_gradients_find_their_way_home():
    with pretended_cuda(2) as machine:
        x, w = torch.ones(3, requires_grad=True), on(1, requires_grad=True)
        first, _ = (x.to("cuda:0") * 2).split([1, 2])  # no gradient for the rest: zeros, made in C++
        (torch.cat([first, first]).to("cuda:1").sum() * w.exp()).sum().backward()
        assert (str(x.grad.device), str(w.grad.device)) == ("cpu", "cuda:1")
        torch.testing.assert_close(x.grad, torch.tensor([12 * torch.e, 0.0, 0.0]))
        assert not machine.mixed


def test_views_and_writing_in_place_share_memory():
    with pretended_cuda(1):
        x = on(0, 2, 3)
        x[0] += 1
        x.T[1] = 5
        assert x.tolist() == [[2, 5, 2], [1, 5, 1]]
        assert x[1].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        with pytest.raises(NotImplementedError, match="not pretended"):
            x.unsqueeze_(0)


def test_nothing_is_kept_and_nothing_stays():
    before = {name: getattr(torch.cuda, name) for name in ("device_count", "is_available", "current_device")}
    with pretended_cuda(3):
        x = on(2)
        memory = weakref.ref(x.held)
        assert (torch.cuda.device_count(), torch.cuda.is_available()) == (3, True)
        kept, x = x.exp(), None
        assert memory() is None
    assert {name: getattr(torch.cuda, name) for name in before} == before
    with pytest.raises(RuntimeError, match="cuda:2, and there are 0"):
        kept + 1
