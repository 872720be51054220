"""Torch, lifted onto shards: each shard alone, as plain torch does it, and nothing else."""

import copy
import math
import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shardlab import Mesh, Shards

RANDOM = torch.Generator().manual_seed(0)


def mesh_of(n):
    return Mesh(n, devices=["cpu"])


def randn(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=RANDOM, dtype=torch.float64).to(dtype)


def values(mesh, *shape, requires_grad=False):
    """A Shards with something else in each shard."""
    return Shards([randn(*shape).requires_grad_(requires_grad) for _ in mesh.ranks], mesh)


def per_shard(function, *args):
    """What plain torch says, shard by shard."""
    n = next(len(arg.shards) for arg in args if type(arg) is Shards)
    return [function(*(arg.shards[r] if type(arg) is Shards else arg for arg in args)) for r in range(n)]


def assert_same(x_, expected):
    """The shards of x_ are bit for bit the tensors expected (the same operations ran on each)."""
    assert type(x_) is Shards
    assert len(x_.shards) == len(expected) > 0
    for shard, want in zip(x_.shards, expected, strict=True):
        assert (shard.shape, shard.dtype) == (want.shape, want.dtype)
        assert torch.equal(shard, want)


# what torch can do with two values, and with one

BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "eq", "ne", "lt", "le", "gt", "ge"]
BITS = ["and_", "or_", "xor", "lshift", "rshift"]


@pytest.mark.parametrize("name", [*BINARY, "matmul"])
def test_operator_between_two_shards(name):
    a_, b_ = values(mesh_of(3), 4, 4), values(mesh_of(3), 4, 4)
    function = getattr(operator, name)
    assert_same(function(a_.abs() + 1, b_), per_shard(lambda a, b: function(a.abs() + 1, b), a_, b_))


@pytest.mark.parametrize("name", BITS)
def test_operator_on_whole_numbers(name):
    mesh = mesh_of(2)
    a_, b_ = (Shards([torch.randint(0, 5, (6,), generator=RANDOM) for _ in range(2)], mesh) for _ in range(2))
    function = getattr(operator, name)
    assert_same(function(a_, b_), per_shard(function, a_, b_))
    assert_same(function(a_, 3), per_shard(function, a_, 3))


@pytest.mark.parametrize("name", BINARY)
def test_operator_with_a_scalar_on_either_side(name):
    a_, function = values(mesh_of(3), 4) + 10, getattr(operator, name)
    for scalar in (2.5, 3, torch.tensor(2.0, dtype=torch.float64)):
        assert_same(function(a_, scalar), per_shard(function, a_, scalar))
        assert_same(function(scalar, a_), per_shard(lambda a, s=scalar: function(s, a), a_))


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"])
def test_operator_in_place_writes_each_shard(name):
    a_, b_ = values(mesh_of(3), 4).abs() + 1, values(mesh_of(3), 4)
    expected = per_shard(lambda a, b: getattr(operator, name)(a.clone(), b), a_, b_)
    places = [t.data_ptr() for t in a_.shards]
    result_ = getattr(operator, name)(a_, b_)
    assert_same(result_, expected)
    assert [t.data_ptr() for t in result_.shards] == places


def test_unary_operators():
    a_ = values(mesh_of(2), 3)
    for function in (operator.neg, operator.pos, abs):
        assert_same(function(a_), per_shard(function, a_))
    assert_same(~(a_ > 0), per_shard(lambda a: ~(a > 0), a_))


ONE = {  # functions, methods and properties of one [4, 6] tensor
    "sum": lambda x: x.sum(),
    "sum_dim": lambda x: x.sum(dim=-1, keepdim=True),
    "torch.sum": lambda x: torch.sum(x, 0),
    "transpose": lambda x: x.T @ x,
    "mT": lambda x: x.mT,
    "reshape": lambda x: x.reshape(2, -1),
    "view": lambda x: x.view(3, 8),
    "to": lambda x: x.to(torch.float32),
    "float": lambda x: x.float(),
    "where": lambda x: torch.where(x > 0, x, -x),
    "where_scalar": lambda x: torch.where(x > 0, x, 0.0),
    "clamp": lambda x: x.clamp(min=0),
    "gelu": lambda x: F.gelu(x),
    "softmax": lambda x: F.softmax(x, dim=-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "dropout_off": lambda x: F.dropout(x, 0.5, training=False),
    "cumsum": lambda x: x.cumsum(0),
    "row": lambda x: x[1],
    "columns": lambda x: x[:, 1:3],
    "last": lambda x: x[..., -1],
    "new_dim": lambda x: x[None],
    "a_list": lambda x: x[[0, 2]],
    "mask": lambda x: x * (x > 0),
    "zeros_like": lambda x: torch.zeros_like(x),
    "new_zeros": lambda x: x.new_zeros(2, 2),
    "cat_itself": lambda x: torch.cat([x, x], dim=1),
    "stack_tuple": lambda x: torch.stack((x, 2 * x)),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "einsum_list": lambda x: torch.einsum("ij,kj->ik", [x, x]),
    "module": lambda x: torch.nn.ReLU()(x),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=0),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(ONE)), st.integers(1, 8))
def test_function_of_one_value(name, n):
    x_ = values(mesh_of(n), 4, 6)
    assert_same(ONE[name](x_), per_shard(ONE[name], x_))


SEVERAL = {  # those that return several tensors
    "unbind": lambda x: x.unbind(0),
    "split": lambda x: x.split([1, 3]),
    "chunk": lambda x: torch.chunk(x, 2, dim=1),
    "max": lambda x: torch.max(x, dim=1),
    "topk": lambda x: x.topk(2),
    "iter": lambda x: tuple(x),
    "qr": lambda x: torch.linalg.qr(x),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x[:1]),
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_function_that_returns_several(name):
    x_ = values(mesh_of(3), 4, 6)
    answers_, expected = SEVERAL[name](x_), per_shard(SEVERAL[name], x_)
    assert len(answers_) == len(expected[0]) > 1
    for i, answer_ in enumerate(answers_):
        assert_same(answer_, [answer[i] for answer in expected])


def test_named_tuples_keep_their_names():
    x_ = values(mesh_of(2), 3, 4)
    assert_same(x_.max(dim=1).indices, per_shard(lambda x: x.max(dim=1).indices, x_))


def test_functions_of_several_values():
    mesh = mesh_of(3)
    x_, w_, b_ = values(mesh, 4, 6), values(mesh, 5, 6), values(mesh, 5)
    assert_same(F.linear(x_, w_, b_), per_shard(F.linear, x_, w_, b_))
    assert_same(F.linear(x_, w_, bias=b_), per_shard(F.linear, x_, w_, b_))
    scale_ = values(mesh, 6)
    assert_same(
        F.layer_norm(x_, (6,), weight=scale_, bias=scale_),
        per_shard(lambda x, s: F.layer_norm(x, (6,), s, s), x_, scale_),
    )
    assert_same(torch.addmm(b_, x_, w_.T), per_shard(lambda b, x, w: torch.addmm(b, x, w.T), b_, x_, w_))
    targets_ = Shards([torch.randint(0, 6, (4,), generator=RANDOM) for _ in range(3)], mesh)
    assert_same(F.cross_entropy(x_, targets_), per_shard(F.cross_entropy, x_, targets_))
    assert_same(
        F.cross_entropy(x_, target=targets_, reduction="sum", label_smoothing=0.1),
        per_shard(lambda x, t: F.cross_entropy(x, t, reduction="sum", label_smoothing=0.1), x_, targets_),
    )
    rows_ = Shards([torch.randint(0, 5, (3,), generator=RANDOM) for _ in range(3)], mesh)
    assert_same(F.embedding(rows_, w_), per_shard(F.embedding, rows_, w_))
    assert_same(torch.cat([x_, w_]), per_shard(lambda x, w: torch.cat([x, w]), x_, w_))
    assert_same(torch.cat(tensors=[x_, w_], dim=0), per_shard(lambda x, w: torch.cat([x, w]), x_, w_))
    assert_same(torch.where(x_ > 0, x_, 2 * x_), per_shard(lambda x: torch.where(x > 0, x, 2 * x), x_))


def test_out_and_setitem_write_each_shard():
    x_ = values(mesh_of(3), 4)
    out_ = torch.zeros_like(x_)
    assert_same(torch.mul(x_, 2, out=out_), [2 * x for x in x_.shards])
    assert_same(out_, [2 * x for x in x_.shards])
    out_[0] = 7.0
    out_[1:3] = x_[:2]
    for out, x in zip(out_.shards, x_.shards, strict=True):
        assert out.tolist() == [7.0, *x[:2].tolist(), 2 * x[3].item()]


def test_a_plain_tensor_says_to_be_placed():
    x_ = values(mesh_of(2), 3, 4)
    calls = [
        lambda: x_ + torch.ones(4),
        lambda: torch.ones(4) + x_,
        lambda: torch.ones(2, 3) @ x_,
        lambda: torch.cat([x_, torch.ones(3, 4)]),
        lambda: torch.nn.Linear(4, 2)(x_.float()),
        lambda: F.layer_norm(x_, (4,), weight=torch.ones(4)),
        lambda: torch.ones(3, 4)[mesh_of(2).rank],
        lambda: x_.__setitem__(0, torch.ones(4)),
        lambda: torch.ones(3, 4).add_(x_),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"place it first, with mesh\.replicate.*mesh\.shard"):
            call()


def test_a_plain_scalar_tensor_is_a_scalar():
    x_ = values(mesh_of(2), 3)
    half = torch.tensor(0.5, dtype=torch.float64)
    assert_same(x_ * half, [x * 0.5 for x in x_.shards])
    assert_same(half - x_, [0.5 - x for x in x_.shards])
    assert_same(torch.where(x_ > half, half, x_), per_shard(lambda x: torch.where(x > half, half, x), x_))


def test_one_line_may_depend_on_the_rank():
    mesh = mesh_of(4)
    x_ = values(mesh, 8)
    assert_same(x_[mesh.rank], [x[r] for r, x in enumerate(x_.shards)])
    assert_same(x_[mesh.rank : mesh.rank + 2], [x[r : r + 2] for r, x in enumerate(x_.shards)])
    assert_same(x_[mesh.rank :: 2], [x[r::2] for r, x in enumerate(x_.shards)])
    table_ = values(mesh, 3, 4)
    assert_same(table_[:, mesh.rank], [t[:, r] for r, t in enumerate(table_.shards)])
    assert_same(table_.narrow(1, mesh.rank, 1), [t[:, r : r + 1] for r, t in enumerate(table_.shards)])
    assert_same(x_ * mesh.rank, [x * r for r, x in enumerate(x_.shards)])
    bias_ = values(mesh, 8)
    once_ = torch.where(mesh.rank == 0, bias_, 0.0)
    assert_same(once_, [b if r == 0 else torch.zeros_like(b) for r, b in enumerate(bias_.shards)])


# what a Shards answers, and where it cannot


def test_properties_and_answers_that_agree():
    x_ = values(mesh_of(3), 3, 4)
    assert x_.shape == torch.Size([3, 4]) and x_.size(-1) == 4 and len(x_) == 3
    assert x_.dtype == torch.float64 and x_.device == torch.device("cpu") and x_.ndim == x_.dim() == 2
    assert x_.requires_grad is False and x_.is_leaf is True and x_.numel() == 12 and x_.is_contiguous()
    two_ = mesh_of(3).replicate(torch.tensor(2.5))
    assert float(two_) == two_.item() == 2.5 and int(two_) == 2 and f"{two_:.2f}" == "2.50"
    assert mesh_of(3).replicate(torch.tensor([1, 2])).tolist() == [1, 2]
    assert math.isnan(mesh_of(2).replicate(torch.tensor(float("nan"))).item())
    assert [1, 2, 3][mesh_of(2).replicate(torch.tensor(1))] == 2
    assert (x_ == None) is False  # noqa: E711 (as a tensor answers)


def test_shapes_that_differ_show_each():
    x_ = mesh_of(3).shard(torch.ones(7, 2), dim=0)
    each = r"shape.*shard 0:.*\[3, 2\].*shard 1:.*\[2, 2\].*shard 2:.*\[2, 2\].*\[t\.shape for t"
    with pytest.raises(ValueError, match=each):
        x_.shape  # noqa: B018
    with pytest.raises(ValueError, match=r"shard 0: 3; shard 1: 2"):
        len(x_)
    with pytest.raises(ValueError, match="do not agree"):
        list(x_)
    assert x_.size(1) == 2


def test_values_that_differ_show_each():
    rank_ = mesh_of(3).rank
    for ask in (float, int, lambda r: r.item(), lambda r: r.tolist(), lambda r: f"{r:d}", lambda r: "abc"[r]):
        with pytest.raises(ValueError, match="shard 0: .?0.*shard 1: .?1.*shard 2: .?2"):
            ask(rank_)
    with pytest.raises(ValueError, match=r"\[t\.numpy\(\) for t in x_\.shards\]"):
        rank_.numpy()
    with pytest.raises(ValueError, match="do not agree on `equal`"):
        torch.equal(rank_, torch.zeros_like(rank_))


def test_if_wants_one_answer():
    x_ = values(mesh_of(2), 1)
    for ask in (bool, lambda x_: x_ > 0 or True, lambda x_: not x_, lambda x_: x_ in [values(mesh_of(2), 1)]):
        with pytest.raises(TypeError, match="torch.where"):
            ask(x_)


def test_two_meshes_do_not_mix():
    a_, b_ = values(mesh_of(2), 3), values(mesh_of(3), 3)
    calls = [lambda: a_ + b_, lambda: torch.cat([a_, b_]), lambda: torch.add(a_, 1, out=b_), lambda: F.linear(a_, b_)]
    for call in calls:
        with pytest.raises(ValueError, match=r"two meshes, Mesh\(tp=[23]\) and Mesh\(tp=[23]\)"):
            call()
    with pytest.raises(ValueError, match="two meshes"):
        values(Mesh(dp=2, tp=3), 3) + values(Mesh(tp=3, dp=2), 3)
    assert_same(a_ + values(mesh_of(2), 3) * 0, a_.shards)  # an equal mesh is the same mesh


def test_an_error_names_the_shard_and_the_shapes():
    mesh = mesh_of(2)
    x_, w_ = Shards([torch.ones(2, 3), torch.ones(2, 4)], mesh), mesh.replicate(torch.ones(3, 5))
    for call in (lambda: x_ @ w_, lambda: torch.matmul(x_, w_), lambda: x_.matmul(w_)):
        with pytest.raises(RuntimeError, match=r"shard 1, matmul\(\[2, 4\], \[3, 5\]\)"):
            call()
    with pytest.raises(IndexError, match=r"shard 0, getitem\(\[2, 3\], 5\)"):
        x_[5]
    with pytest.raises(TypeError, match="shard 0"):
        x_.sum("a")


def test_shards_on_two_devices():
    mesh = Mesh(2, devices=["cpu", "meta"])
    x_ = mesh.replicate(torch.ones(2, 3))
    assert [t.device.type for t in (x_ @ x_.T).shards] == ["cpu", "meta"]
    with pytest.raises(ValueError, match="shard 0: device\\(type='cpu'\\); shard 1: device\\(type='meta'\\)"):
        x_.device  # noqa: B018


# memory: who may write


def test_in_place_on_a_shared_buffer_is_refused():
    mesh = mesh_of(3)
    y_ = mesh.all_reduce(values(mesh, 4))

    def iadd(y_):
        y_ += 1

    def setitem(y_):
        y_[0] = 1

    writers = [
        iadd,
        setitem,
        lambda y_: y_.add_(1),
        lambda y_: y_[1:].zero_(),
        lambda y_: torch.relu_(y_),
        lambda y_: F.elu(y_, inplace=True),
        lambda y_: torch.nn.ReLU(inplace=True)(y_),
        lambda y_: torch.nn.LeakyReLU(0.1, True)(y_),
        lambda y_: torch.add(torch.ones_like(y_), 1, out=y_),
        lambda y_: torch.nn.init.ones_(y_),
        lambda y_: y_.detach().requires_grad_(),
    ]
    before = y_.shards[0].clone()
    for write in writers:
        with pytest.raises(RuntimeError, match=r"memory that several shards share.*x_\.clone\(\)"):
            write(y_)
    assert_same(y_, [before] * 3)
    y_ = y_.clone()
    y_ += mesh.rank
    assert_same(y_, [before + r for r in range(3)])


def test_in_place_where_each_shard_has_its_own_memory():
    mesh = mesh_of(3)
    x_ = mesh.replicate(torch.zeros(4))
    x_ += mesh.rank
    x_.mul_(2)
    assert [x.tolist() for x in x_.shards] == [[0.0] * 4, [2.0] * 4, [4.0] * 4]
    with pytest.raises(RuntimeError, match="shard 0.*leaf"):
        mesh.replicate(torch.zeros(2, requires_grad=True)).add_(1)


def test_deepcopy_shares_nothing_but_the_mesh():
    x_ = values(mesh_of(2), 3, requires_grad=True)
    twin_ = copy.deepcopy(x_)
    assert_same(twin_, x_.shards)
    assert twin_.mesh is x_.mesh and twin_.requires_grad
    assert {t.data_ptr() for t in twin_.shards}.isdisjoint(t.data_ptr() for t in x_.shards)


# gradients


def test_backward_is_one_backward_over_the_shards():
    mesh = mesh_of(3)
    x_ = values(mesh, 4, requires_grad=True)
    assert x_.grad is None
    cotangent_ = values(mesh, 4)
    (x_ * x_).backward(cotangent_)
    assert_same(x_.grad, [2 * x.detach() * c for x, c in zip(x_.shards, cotangent_.shards, strict=True)])
    x_.grad = None
    assert x_.grad is None
    (x_ * mesh.rank).sum().backward()
    assert_same(x_.grad, [torch.full((4,), float(r), dtype=torch.float64) for r in range(3)])


COTANGENTS = {
    "of another shape": (lambda mesh: mesh.replicate(torch.ones(3, dtype=torch.float64)), "Mismatch in shape"),
    "of a shape to sum": (lambda mesh: mesh.replicate(torch.ones(2, 4, dtype=torch.float64)), "Mismatch in shape"),
    "a number": (lambda mesh: 1.0, "either Tensors or None, but got float"),
    "none": (lambda mesh: None, "only for scalar outputs"),
    "a plain tensor": (lambda mesh: torch.ones(4), "place it first"),
}


@pytest.mark.parametrize(("cotangent", "told"), COTANGENTS.values(), ids=COTANGENTS)
def test_a_cotangent_that_does_not_fit(cotangent, told):
    mesh = mesh_of(2)
    x_ = values(mesh, 4, requires_grad=True)
    with pytest.raises((RuntimeError, TypeError), match=told):
        (x_ * x_).backward(cotangent(mesh))
    assert x_.grad is None


def test_a_graph_is_freed_by_backward_unless_retained():
    mesh = mesh_of(2)
    x_ = values(mesh, 4, requires_grad=True)
    y_, cotangent_ = x_ * x_, values(mesh, 4)
    y_.backward(cotangent_, retain_graph=True)
    y_.backward(cotangent_)
    assert_same(x_.grad, [4 * x.detach() * c for x, c in zip(x_.shards, cotangent_.shards, strict=True)])
    with pytest.raises(RuntimeError, match="second time"):
        y_.backward(cotangent_)


def test_equal_cotangents_in_one_buffer_do_not_become_one_grad():
    mesh = mesh_of(3)
    x_ = mesh.replicate(torch.ones(4)).requires_grad_()
    x_.view(2, 2).backward(mesh.broadcast(mesh.replicate(torch.ones(2, 2))))
    x_.grad.shards[0].zero_()
    assert_same(x_.grad, [torch.zeros(4), torch.ones(4), torch.ones(4)])


WAYS = {
    "method": lambda loss_, x_: loss_.backward(),
    "Tensor.backward": lambda loss_, x_: torch.Tensor.backward(loss_),
    "autograd.backward": lambda loss_, x_: torch.autograd.backward(loss_),
    "of a list": lambda loss_, x_: torch.autograd.backward([loss_]),
    "autograd.grad": lambda loss_, x_: setattr(x_, "grad", torch.autograd.grad(loss_, x_)[0]),
    "grad of lists": lambda loss_, x_: setattr(x_, "grad", torch.autograd.grad([loss_], [x_])[0]),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_a_gradient_is_one_joint_backward(way):
    """Through a collective: shard after shard instead would find the graph already freed, or grads halved."""
    mesh = mesh_of(3)
    x_ = mesh.replicate(torch.ones(2, dtype=torch.float64)).requires_grad_()
    with mesh.record() as traffic:
        loss_ = mesh.all_reduce((mesh.copy(x_) * (mesh.rank + 1)).sum())
        WAYS[way](loss_, x_)
    assert_same(x_.grad, [torch.full((2,), 6.0, dtype=torch.float64)] * 3)
    assert [call.phase for call in traffic] == ["forward", "backward"]


def test_autograd_grad_with_cotangents_and_unused_inputs():
    mesh = mesh_of(2)
    x_, unused_ = values(mesh, 3, requires_grad=True), values(mesh, 3, requires_grad=True)
    c_ = values(mesh, 3)
    (grad_, nothing) = torch.autograd.grad(x_.exp(), [x_, unused_], c_, allow_unused=True)
    assert_same(grad_, [x.detach().exp() * c for x, c in zip(x_.shards, c_.shards, strict=True)])
    assert nothing is None


def test_a_gradient_that_only_some_shards_have_shows_each():
    x_ = values(mesh_of(2), 3, requires_grad=True)
    x_.shards[1].sum().backward()
    with pytest.raises(ValueError, match=r"shard 0: None; shard 1: tensor \[3\]"):
        x_.grad  # noqa: B018


def test_no_gradients_where_none_are_wanted():
    x_ = values(mesh_of(2), 3, requires_grad=True)
    with torch.no_grad():
        assert (x_ * 2).requires_grad is False
    assert (x_ * 2).requires_grad is True and (x_ * 2).detach().requires_grad is False


# no hidden communication


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ONE)), st.integers(2, 6), st.data())
def test_a_lifted_function_never_communicates(name, n, data):
    """Shard r of the result depends on shard r alone: disturb one shard, and only its own result changes."""
    mesh = mesh_of(n)
    x_ = values(mesh, 4, 6)
    disturbed = data.draw(st.integers(0, n - 1))
    twin_ = Shards([x + 10 if r == disturbed else x for r, x in enumerate(x_.shards)], mesh)
    with mesh.record() as traffic:
        before_, after_ = ONE[name](x_), ONE[name](twin_)
    assert traffic == []
    for r, (a, b) in enumerate(zip(before_.shards, after_.shards, strict=True)):
        if r != disturbed:
            assert torch.equal(a, b)
    leaves_ = values(mesh, 4, 6, requires_grad=True)
    result_ = ONE[name](leaves_)
    if result_.requires_grad:
        grads = torch.autograd.grad(result_.shards[disturbed].sum(), leaves_.shards, allow_unused=True)
        assert [g is not None for g in grads] == [r == disturbed for r in range(n)]


# how it behaves as an object

PROBED = ["_repr_png_", "_ipython_display_", "_ipython_canary_method_should_not_exist_"]


@pytest.mark.parametrize("name", PROBED)
def test_a_notebook_probes_names_that_are_not_there(name):
    assert not hasattr(values(mesh_of(2), 3), name)


def test_names_that_do_not_exist():
    x_ = values(mesh_of(2), 3)
    with pytest.raises(AttributeError, match="no attribute 'all_gather'.*x_.shards"):
        x_.all_gather  # noqa: B018
    with pytest.raises(AttributeError):
        x_.shape = (1,)
    assert {"shards", "mesh", "grad", "backward", "sum", "shape"} <= set(dir(x_))


def test_it_shows_itself_and_where_it_is():
    text = repr(mesh_of(2).replicate(torch.tensor([1.0, 2.0])))
    assert "shard 0" in text and "shard 1" in text and "cpu" in text
    loss_ = values(mesh_of(2), 3, requires_grad=True).sum()
    assert f"{loss_}" == str(loss_) == repr(loss_)
    assert loss_._repr_html_().startswith("<img alt=")


def test_a_shards_can_be_a_key():
    x_, y_ = values(mesh_of(2), 3), values(mesh_of(2), 3)
    assert {x_: 1, y_: 2}[x_] == 1


def test_functions_that_cannot_be_lifted_say_so():
    with pytest.raises(TypeError, match=r"x_\.shards"):
        Shards.__torch_function__(torch.sum, (Shards,), ({"x": values(mesh_of(2), 3)},))


# writing where shards share memory, and backward to some leaves alone


def shared(*shape):
    mesh = Mesh(3, devices=["cpu"])
    return mesh.broadcast(mesh.replicate(torch.zeros(*shape)))


@pytest.mark.parametrize(
    "write",
    [
        lambda x_: torch.max(x_, 1, out=(shared(2), shared(2).long())),
        lambda x_: torch.nn.functional.batch_norm(x_, shared(3), shared(3) + 1, training=True),
        lambda x_: torch.nn.functional.batch_norm(x_, running_mean=shared(3) + 1, running_var=shared(3), training=True),
        lambda x_: torch._foreach_add_([shared(2)], 1.0),
        lambda x_: x_.mesh.broadcast(x_).add_(1),
    ],
)
def test_nothing_writes_into_memory_that_shards_share(write):
    x_ = Mesh(3, devices=["cpu"]).replicate(torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="would write into memory that several shards share"):
        write(x_)


def test_empty_shards_share_nothing():
    x_ = Mesh(3, devices=["cpu"]).shard(torch.ones(1), dim=0)
    x_ += 1
    assert [shard.tolist() for shard in x_.shards] == [[2.0], [], []]


@pytest.mark.parametrize("how", ["method", "function"])
def test_backward_to_some_leaves_alone(how):
    mesh = Mesh(3, devices=["cpu"])
    w_, z_ = (mesh.replicate(torch.full((2, 3), size, requires_grad=True)) for size in (2.0, 5.0))
    loss_ = mesh.all_reduce((w_ * z_).sum())
    if how == "method":
        loss_.backward(inputs=[w_])
    else:
        torch.autograd.backward(loss_, inputs=[w_])
    assert z_.grad is None and [shard.unique().tolist() for shard in w_.grad.shards] == [[5.0]] * 3


def test_each_shard_starts_from_its_own_gradient():
    mesh = Mesh(2, devices=["cpu"])
    x_ = mesh.replicate(torch.ones(2, requires_grad=True))
    torch.autograd.backward([x_ * 3], [mesh.replicate(torch.tensor([1.0, 2.0])) * (1 + mesh.rank)])
    assert [shard.tolist() for shard in x_.grad.shards] == [[3.0, 6.0], [6.0, 12.0]]
