"""Every collective against what plain tensors say: values, each gradient, and the record of what moved."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.cuda import comm

from shardlab import Mesh, Shards
from shardlab.moves import OneProcess

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WHOLE = [torch.int64, torch.int32, torch.uint8]
CASES = settings(max_examples=80, deadline=None)


# The oracle: what each collective does to a list of plain tensors, one per shard.


def total(xs):
    return torch.stack(list(xs)).sum(0)


def cut(x, n, dim):
    return x.tensor_split(n, dim)


ORACLE = {
    "copy": lambda xs, dim, other: list(xs),
    "all_reduce": lambda xs, dim, other: [total(xs)] * len(xs),
    "all_gather": lambda xs, dim, other: [torch.cat(xs, dim)] * len(xs),
    "all_gather_partial": lambda xs, dim, other: [torch.cat(xs, dim)] * len(xs),
    "scatter": lambda xs, dim, other: [cut(x, len(xs), dim)[r] for r, x in enumerate(xs)],
    "reduce_scatter": lambda xs, dim, other: list(cut(total(xs), len(xs), dim)),
    "all_to_all": lambda xs, dim, other: [
        torch.cat([cut(x, len(xs), dim)[r] for x in xs], other) for r in range(len(xs))
    ],
    "broadcast": lambda xs, dim, other: [xs[len(xs) - 1]] * len(xs),
    "shift": lambda xs, dim, other: [xs[(r - STEP) % len(xs)] for r in range(len(xs))],
}
REPLICATED_IN = {"copy", "scatter"}  # they take one value that every shard holds
REPLICATED_OUT = {"all_reduce", "all_gather"}  # every shard goes on to do the same with what they return
STEP = -2  # of a shift
GATHERS = {"all_gather", "all_gather_partial", "all_to_all", "shift"}  # they take pieces that may differ in size


def run(view, name, x_, dim, other):
    """The mesh's own collective of that name."""
    calls = {
        "copy": lambda: view.copy(x_),
        "all_reduce": lambda: view.all_reduce(x_),
        "all_gather": lambda: view.all_gather(x_, dim),
        "all_gather_partial": lambda: view.all_gather(x_, dim, grad="partial"),
        "scatter": lambda: view.scatter(x_, dim),
        "reduce_scatter": lambda: view.reduce_scatter(x_, dim),
        "all_to_all": lambda: view.all_to_all(x_, dim, other),
        "broadcast": lambda: view.broadcast(x_, view.size - 1),
        "shift": lambda: view.shift(x_, STEP),
    }
    return calls[name]()


def members(mesh, axis):
    """The groups of ranks along an axis, from torch's layout of a mesh: the last axis runs fastest."""
    grid = torch.arange(len(mesh.ranks)).reshape(*mesh.axes.values())
    if axis is None:
        return [grid.flatten().tolist()]
    place = list(mesh.axes).index(axis)
    return grid.movedim(place, -1).reshape(-1, mesh.axes[axis]).tolist()


@st.composite
def cases(draw, names=tuple(ORACLE), dtypes=tuple(FLOATS)):
    """A mesh (flat or dp×tp), an axis of it, a collective, and a tensor for each shard: even, uneven or empty."""
    if draw(st.booleans()):
        mesh, axis = Mesh(draw(st.integers(1, 8)), devices=["cpu"]), None
    else:
        mesh = Mesh(dp=draw(st.integers(1, 3)), tp=draw(st.integers(1, 3)), devices=["cpu"])
        axis = draw(st.sampled_from([None, "dp", "tp"]))
    name = draw(st.sampled_from(sorted(names)))
    shape = draw(st.lists(st.integers(0, 5), min_size=2, max_size=3))
    dim, other = draw(st.permutations(range(len(shape))))[:2]
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def random(shape):
        values = torch.randn(shape, generator=generator, dtype=torch.float64).mul(8)
        return (values.abs().clamp(max=31) if dtype is torch.uint8 else values).to(dtype)  # sums of 8 fit into a byte

    parts = [None] * len(mesh.ranks)
    for group in members(mesh, axis):
        whole = random(shape)
        for rank in group:
            parts[rank] = whole.clone() if name in REPLICATED_IN else random(ragged(draw, name, shape, dim, other))
    if draw(st.booleans()):
        dim, other = dim - len(shape), other - len(shape)
    return mesh, axis, name, parts, dim, other, random


def ragged(draw, name, shape, dim, other):
    """The dim along which the pieces are joined may have any size, on each shard its own."""
    joined = other if name == "all_to_all" else dim
    return [draw(st.integers(0, 4)) if name in GATHERS and i == joined else size for i, size in enumerate(shape)]


def close(actual, expected):
    """Equal up to the order of at most 8 additions in this dtype, of values near 10."""
    unit = torch.finfo(expected.dtype).eps if expected.dtype.is_floating_point else 0
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(actual, expected, rtol=8 * unit, atol=400 * unit)


# values, and every gradient


@CASES
@given(cases())
def test_values_and_gradients(case):
    mesh, axis, name, parts, dim, other, random = case
    view = mesh if axis is None else mesh[axis]
    x_ = Shards([part.clone().requires_grad_() for part in parts], mesh)
    y_ = run(view, name, x_, dim, other)

    expected, expected_grads, cotangents = [None] * len(parts), [None] * len(parts), [None] * len(parts)
    for group in members(mesh, axis):
        xs = [parts[rank].double().requires_grad_() for rank in group]
        if name in REPLICATED_IN:  # one value, that all shards of the group use
            xs = [xs[0]] * len(group)
        ys = ORACLE[name](xs, dim, other)
        once = random(ys[0].shape)
        cs = [once if name in REPLICATED_OUT else random(y.shape) for y in ys]
        used = slice(1) if name in REPLICATED_OUT else slice(None)  # a replicated value counts once
        product = sum((y * c).sum() for y, c in zip(ys[used], cs[used], strict=True))
        grads = torch.autograd.grad(product, xs, materialize_grads=True)
        for rank, y, grad, c in zip(group, ys, grads, cs, strict=True):
            expected[rank], expected_grads[rank], cotangents[rank] = y, grad, c

    for y, want, part in zip(y_.shards, expected, parts, strict=True):
        close(y.detach(), want.detach().to(part.dtype))
    y_.backward(Shards(cotangents, mesh))
    for grad, want, part in zip(x_.grad.shards, expected_grads, parts, strict=True):
        close(grad, want.to(part.dtype))
    places = [grad.untyped_storage().data_ptr() for grad in x_.grad.shards if grad.numel()]
    assert len(set(places)) == len(places), "two shards' gradients share memory"


@CASES
@given(cases(dtypes=(torch.float64,)))
def test_backward_is_the_adjoint(case):
    """⟨A x, c⟩ = ⟨x, Aᵀ c⟩, where a value that is replicated counts once."""
    mesh, axis, name, parts, dim, other, random = case
    view = mesh if axis is None else mesh[axis]
    x_ = Shards([part.requires_grad_() for part in parts], mesh)
    y_ = run(view, name, x_, dim, other)
    c_ = Shards([random(y.shape) for y in y_.shards], mesh)
    for group in members(mesh, axis):
        if name in REPLICATED_OUT:
            for rank in group:
                c_.shards[rank] = c_.shards[group[0]]
    (grad_,) = torch.autograd.grad(y_, x_, c_)

    def inner(a_, b_, replicated):
        chosen = [ranks[:1] if replicated else ranks for ranks in members(mesh, axis)]
        return sum((a_.shards[rank] * b_.shards[rank]).sum().item() for ranks in chosen for rank in ranks)

    left = inner(y_, c_, replicated=name in REPLICATED_OUT)
    right = inner(x_, grad_, replicated=name in REPLICATED_IN)
    assert left == pytest.approx(right, rel=1e-9, abs=1e-9)


@CASES
@given(cases(names=set(ORACLE) - {"copy"}, dtypes=tuple(WHOLE)))
def test_whole_numbers_are_exact(case):
    mesh, axis, name, parts, dim, other, _ = case
    y_ = run(mesh if axis is None else mesh[axis], name, Shards(parts, mesh), dim, other)
    for group in members(mesh, axis):
        for rank, want in zip(group, ORACLE[name]([parts[rank] for rank in group], dim, other), strict=True):
            assert torch.equal(y_.shards[rank], want.to(parts[0].dtype))


@given(st.data())
def test_a_sum_of_whole_numbers_is_exact_or_an_error(data):
    """Also where partial sums would not fit and the whole sum does, and with int64, which nothing is wider than."""
    dtype = data.draw(st.sampled_from([torch.int8, torch.uint8, torch.int32, torch.int64]))
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    some = st.one_of(st.integers(least, most), st.sampled_from([least, most, 0, 1]))
    n, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    rows = data.draw(st.lists(st.lists(some, min_size=length, max_size=length), min_size=n, max_size=n))
    mesh = Mesh(n, devices=["cpu"])
    x_ = Shards([torch.tensor(row, dtype=dtype) for row in rows], mesh)
    sums = [sum(column) for column in zip(*rows, strict=True)]
    if all(least <= number <= most for number in sums):
        assert mesh.all_reduce(x_).shards[0].tolist() == sums
    else:
        with pytest.raises(OverflowError, match="the sum reaches"):
            mesh.all_reduce(x_)
    assert [shard.tolist() for shard in x_.shards] == rows


@CASES
@given(st.integers(1, 8), st.sampled_from([*FLOATS, *WHOLE, torch.bool]), st.integers(0, 4))
def test_all_reduce_max(n, dtype, length):
    mesh = Mesh(n, devices=["cpu"])
    parts = [torch.randn(3, length).mul(3).to(dtype) for _ in range(n)]
    if dtype.is_floating_point:
        parts[0].requires_grad_()
    y_ = mesh.all_reduce(Shards(parts, mesh), op="max")
    want = torch.stack([part.detach() for part in parts]).amax(0)
    assert all(torch.equal(y, want) for y in y_.shards) and not y_.requires_grad


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_one_shard_alone_is_the_identity_with_memory_of_its_own(name):
    mesh = Mesh(1, devices=["cpu"])
    x_ = mesh.replicate(torch.randn(3, 4))
    y_ = run(mesh, name, x_, 0, 1)
    assert torch.equal(y_.shards[0], x_.shards[0])
    if name not in ("copy", "scatter"):
        assert y_.shards[0].data_ptr() != x_.shards[0].data_ptr()


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_transposed_and_sliced_tensors_are_as_good(name):
    mesh = Mesh(3, devices=["cpu"])
    base = torch.randn(7, 5, 4)
    parts = [base.transpose(0, 2)[1:, ::2].requires_grad_() for _ in range(3)]
    y_ = run(mesh, name, Shards(parts, mesh), 1, 2)
    for y, want in zip(y_.shards, ORACLE[name]([part.detach() for part in parts], 1, 2), strict=True):
        torch.testing.assert_close(y.detach(), want)


def test_a_second_backward_adds_once():
    """Gradients that a collective leaves equal must not be one buffer, which each shard would add to."""
    mesh = Mesh(3, devices=["cpu"])
    X_ = mesh.replicate(torch.ones(2, 2, requires_grad=True))
    for count in (1, 2, 3):
        mesh.copy(X_.reshape(4)).sum().backward()
        assert [grad.tolist() for grad in X_.grad.shards] == [[[3.0 * count] * 2] * 2] * 3
    shared_ = mesh.all_reduce(mesh.replicate(torch.ones(4)))
    X_.grad = None
    X_.reshape(4).backward(shared_)
    X_.reshape(4).backward(shared_)
    assert [grad.tolist() for grad in X_.grad.shards] == [[[6.0] * 2] * 2] * 3


def test_an_optimizer_steps_each_shard_once():
    mesh = Mesh(4, devices=["cpu"])
    X_, w_ = mesh.replicate(torch.ones(2, 3)), mesh.replicate(torch.zeros(3, 5, requires_grad=True))
    step = torch.optim.SGD(w_.shards, lr=0.5, momentum=0.9)
    for _ in range(2):
        step.zero_grad()
        mesh.all_reduce(X_ @ mesh.copy(w_)).sum().backward()
        torch.nn.utils.clip_grad_value_(w_.shards, 1.0)  # writes into the gradients
        step.step()
    for w in w_.shards:
        torch.testing.assert_close(w.detach(), torch.full((3, 5), -0.5 * (1 + 1.9)))


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_a_second_derivative_is_torchs_clear_error(name):
    mesh = Mesh(2, devices=["cpu"])
    x_ = mesh.replicate(torch.ones(2, 2, requires_grad=True))
    y_ = (run(mesh, name, x_ * x_, 0, 1) ** 2).sum()
    (grad_,) = torch.autograd.grad(y_, x_, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad_.sum().backward()


HALVES = {  # a backward that is not every shard's: what its error says
    "a loss of shard 1": (lambda y_: y_.shards[1].sum().backward(), "no gradient came back to shards 0, 2, "),
    "a mean over shards": (lambda y_: torch.stack(y_.shards).mean().backward(), "began at a plain tensor"),
    "a list of tensors": (lambda y_: torch.autograd.backward([y.sum() for y in y_.shards]), "began at a plain tensor"),
    "put back": (lambda y_: Shards([y_.shards[0].sum()] * 3, y_.mesh).backward(), "came back to shards 1, 2, "),
}


@pytest.mark.parametrize("name", sorted(ORACLE))
@pytest.mark.parametrize("how", HALVES)
def test_a_backward_of_some_shards_alone_is_refused(name, how):
    """In one process they would get other gradients than over ranks (modelscope/ms-swift#9947, tevatron#30)."""
    mesh, (backward, said) = Mesh(3, devices=["cpu"]), HALVES[how]
    x_ = mesh.replicate(torch.ones(3, 3, requires_grad=True))
    y_ = run(mesh, name, x_, 0, 1)
    name = name.removesuffix("_partial")
    with pytest.raises(RuntimeError, match=f"backward of {name}: .*{said}.*loss_.backward"):
        backward(y_)
    assert x_.grad is None


def test_the_way_that_the_error_tells_of_gives_the_dense_gradients():
    torch.manual_seed(0)
    mesh, X, T = Mesh(2, devices=["cpu"]), torch.randn(2, 4), torch.randn(2, 6)
    W = torch.randn(4, 6, requires_grad=True)
    (X @ W - T).pow(2).mean().backward()
    W_ = mesh.shard(W, dim=1)
    y_ = mesh.all_gather(mesh.replicate(X) @ W_, dim=1)
    loss_ = (y_ - mesh.replicate(T)).pow(2).mean()
    loss_.backward()
    torch.testing.assert_close(torch.cat(W_.grad.shards, 1), W.grad)


def test_one_shard_alone_is_all_shards():
    x_ = Mesh(1, devices=["cpu"]).replicate(torch.ones(2, requires_grad=True))
    x_.mesh.copy(x_).shards[0].sum().backward()
    assert x_.grad.shards[0].tolist() == [1, 1]


@pytest.mark.parametrize("keeps", ["exp", "tanh", "sigmoid", "sqrt"])
@pytest.mark.parametrize("n", [1, 3])
def test_what_backward_still_needs_is_not_given_away(keeps, n):
    """`donate=True` lets the sum take the memory of what exp keeps for its backward: an error, here as over ranks."""
    x_ = Mesh(n, devices=["cpu"]).replicate(torch.ones(2, requires_grad=True))
    loss_ = x_.mesh.all_reduce(getattr(x_, keeps)(), donate=True).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss_.backward()
    x_.mesh.all_reduce((x_ * 2), donate=True).sum().backward()
    assert x_.grad.shards[0].tolist() == [2, 2]


def test_the_largest_is_nan_where_one_shard_has_a_nan():
    mesh = Mesh(3, devices=["cpu"])
    nan_ = torch.where(mesh.rank == 1, torch.nan, 1.0)
    assert [biggest.isnan().item() for biggest in mesh.all_reduce(nan_, op="max").shards] == [True] * 3


# the record

MOVED = {  # what goes over the wires forward, and backward
    "copy": ([], ["all_reduce"]),
    "all_reduce": (["all_reduce"], []),
    "all_gather": (["all_gather"], []),
    "all_gather_partial": (["all_gather"], ["reduce_scatter"]),
    "scatter": ([], ["all_gather"]),
    "reduce_scatter": (["reduce_scatter"], ["all_gather"]),
    "all_to_all": (["all_to_all"], ["all_to_all"]),
    "broadcast": (["broadcast"], ["reduce"]),
    "shift": (["shift"], ["shift"]),
}


@CASES
@given(cases())
def test_record(case):
    mesh, axis, name, parts, dim, other, random = case
    view = mesh if axis is None else mesh[axis]
    x_ = Shards([part.requires_grad_() for part in parts], mesh)
    with mesh.record() as traffic:
        y_ = run(view, name, x_, dim, other)
        y_.backward(Shards([random(y.shape) for y in y_.shards], mesh))
    run(view, name, x_, dim, other)  # no longer recorded

    still = name == "shift" and STEP % view.size == 0  # all the way round: nothing moves
    forward, backward = ([], []) if still else MOVED[name]
    assert traffic.names == forward + backward
    assert [call.phase for call in traffic] == ["forward"] * len(forward) + ["backward"] * len(backward)
    source = members(mesh, axis)[0][-1 if name == "broadcast" else 0]
    n = view.size
    for call in traffic:
        here = parts[source] if call.phase == "forward" else y_.shards[source]
        gathered = y_.shards[source] if call.phase == "forward" else parts[source]
        payload = (gathered if call.name == "all_gather" else here).nbytes
        rounds = 2 if call.name == "all_reduce" else 1
        assert call.axis == (axis or "×".join(mesh.axes))
        assert (call.shape, call.dtype, call.payload) == (here.shape, here.dtype, payload)
        assert call.wire == pytest.approx(payload if call.name == "shift" else rounds * (n - 1) / n * payload)


def test_several_groups_are_one_collective():
    mesh = Mesh(dp=3, tp=2, devices=["cpu"])
    with mesh.record() as traffic:
        mesh["tp"].all_reduce(mesh.replicate(torch.ones(4)))
        mesh["dp"].all_reduce(mesh.replicate(torch.ones(4)))
        mesh.all_reduce(mesh.replicate(torch.ones(4)))
    assert [(call.axis, call.wire) for call in traffic] == [
        ("tp", 16),
        ("dp", 2 * 2 / 3 * 16),
        ("dp×tp", 2 * 5 / 6 * 16),
    ]


def test_the_megatron_pair():
    """f then g, as in column → row: one all-reduce forward, one backward."""
    mesh = Mesh(4, devices=["cpu"])
    X, A, B = torch.randn(3, 4), torch.randn(4, 8), torch.randn(8, 5)
    X_, A_, B_ = mesh.replicate(X.requires_grad_()), mesh.shard(A, dim=1), mesh.shard(B.requires_grad_(), dim=0)
    with mesh.record() as traffic:
        y_ = mesh.all_reduce(torch.relu(mesh.copy(X_) @ A_) @ B_)
        y_.sum().backward()
    assert [(call.phase, call.name) for call in traffic] == [("forward", "all_reduce"), ("backward", "all_reduce")]
    y = torch.relu(X @ A) @ B
    y.sum().backward()
    for rank in range(4):
        torch.testing.assert_close(y_.shards[rank], y)
        torch.testing.assert_close(X_.grad.shards[rank], X.grad)
        torch.testing.assert_close(B_.grad.shards[rank], B.grad.tensor_split(4, 0)[rank])


@pytest.mark.parametrize("by", [1, 0, -1, 3, 7, torch.tensor(2)])
def test_a_shift_goes_round_the_ring(by):
    """Values of any shape, each in memory of its own, and gradients back to where they came from."""
    mesh = Mesh(4, devices=["cpu"])
    x_ = Shards([torch.full([2] * rank, float(rank), requires_grad=True) for rank in range(4)], mesh)
    y_ = mesh.shift(x_, by=by)
    assert [y.dim() for y in y_.shards] == [(rank - int(by)) % 4 for rank in range(4)]
    (y_.sum() * (mesh.rank + 1)).backward()
    assert [grad.mean().item() for grad in x_.grad.shards] == [(rank + int(by)) % 4 + 1 for rank in range(4)]
    y_ += 1
    assert [x.mean().item() for x in x_.shards] == [0, 1, 2, 3]


def test_a_ring_of_shifts_adds_up_as_all_reduce_does():
    mesh = Mesh(5, devices=["cpu"])
    x_ = mesh.rank + mesh.replicate(torch.arange(3.0))
    total_ = passing_ = x_
    for _ in range(mesh.size - 1):
        passing_ = mesh.shift(passing_)
        total_ = total_ + passing_
    assert all(torch.equal(*pair) for pair in zip(total_.shards, mesh.all_reduce(x_).shards, strict=True))


# errors


def differing(mesh, *shapes):
    return Shards([torch.ones(shape) for shape in shapes], mesh)


ONE_SHAPE = ["copy", "all_reduce", "scatter", "reduce_scatter", "broadcast"]


@pytest.mark.parametrize("name", ONE_SHAPE)
def test_those_that_want_one_shape_show_each(name):
    mesh = Mesh(3, devices=["cpu"])
    with pytest.raises(
        ValueError, match=rf"{name} wants one shape.*shard 0: \[2, 4\].*shard 1: \[2, 3\].*shard 2: \[2, 4\]"
    ):
        run(mesh, name, differing(mesh, (2, 4), (2, 3), (2, 4)), 0, 1)


def test_a_gather_wants_the_other_dims_to_agree():
    mesh = Mesh(2, devices=["cpu"])
    x_ = differing(mesh, (2, 4), (3, 4))
    assert mesh.all_gather(x_, 0).shape == (5, 4)
    with pytest.raises(ValueError, match=r"all_gather along dim 1.*shard 0: \[2, 4\].*shard 1: \[3, 4\]"):
        mesh.all_gather(x_, 1)
    with pytest.raises(ValueError, match=r"all_to_all along dim 1.*shard 0: \[2, 4\].*shard 1: \[3, 4\]"):
        mesh.all_to_all(x_, 0, 1)
    with pytest.raises(ValueError, match="all_gather"):
        mesh.all_gather(differing(mesh, (2, 4), (2, 4, 1)), 0)


@pytest.mark.parametrize("name", sorted(set(ORACLE) - {"copy", "scatter"}))
def test_one_dtype(name):
    mesh = Mesh(2, devices=["cpu"])
    x_ = Shards([torch.ones(2, 2), torch.ones(2, 2).double()], mesh)
    with pytest.raises(ValueError, match="one dtype.*shard 0: torch.float32, shard 1: torch.float64"):
        run(mesh, name, x_, 0, 1)


@pytest.mark.parametrize("name", ["all_gather", "scatter", "reduce_scatter", "all_to_all"])
@pytest.mark.parametrize("dim", [2, -3, None, 1.0])
def test_no_such_dim(name, dim):
    mesh = Mesh(2, devices=["cpu"])
    with pytest.raises(IndexError, match=rf"{name}: dim={dim} does not exist.*\[3, 4\]"):
        run(mesh, name, mesh.replicate(torch.ones(3, 4)), dim, 0)


def test_arguments_out_of_range():
    mesh = Mesh(2, devices=["cpu"])
    x_ = mesh.replicate(torch.ones(2))
    for src in (2, -1):
        with pytest.raises(ValueError, match=f"src={src} is no shard.*0 to 1"):
            mesh.broadcast(x_, src=src)
    with pytest.raises(ValueError, match="op='sum' and op='max', not 'min'"):
        mesh.all_reduce(x_, op="min")
    with pytest.raises(ValueError, match="grad is 'replicated' or 'partial', not 'sum'"):
        mesh.all_gather(x_, 0, grad="sum")
    for by in (None, 1.0, True, mesh.rank):
        with pytest.raises(TypeError, match="by is a whole number of places round the ring, such as 1 or -1, not "):
            mesh.shift(x_, by=by)
    for sums in (lambda m_: mesh.all_reduce(m_), lambda m_: mesh.reduce_scatter(m_, 0)):
        with pytest.raises(TypeError, match=r"bools.*x_\.int\(\)"):
            sums(x_ > 0)


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_what_is_no_shards_of_this_mesh(name):
    mesh = Mesh(2, devices=["cpu"])
    with pytest.raises(TypeError, match="takes a Shards, not a Tensor: place it"):
        run(mesh, name, torch.ones(2, 2), 0, 1)
    with pytest.raises(ValueError, match=r"on Mesh\(tp=2\), but the Shards lives on Mesh\(tp=3\)"):
        run(mesh, name, Mesh(3, devices=["cpu"]).replicate(torch.ones(2, 2)), 0, 1)
    moved_ = mesh.replicate(torch.ones(2, 2)).to("meta")
    with pytest.raises(ValueError, match="the shards are on.*meta.*but their places are.*cpu"):
        run(mesh, name, moved_, 0, 1)


def test_a_second_mesh_of_the_same_kind_is_the_same_mesh():
    a, b = Mesh(2, devices=["cpu"]), Mesh(2, devices=["cpu"])
    assert [t.tolist() for t in b.all_reduce(a.replicate(torch.ones(2))).shards] == [[2.0, 2.0]] * 2


# several devices in one process


@pytest.fixture(params=[1, 3, 4])
def mesh(request):
    return Mesh(request.param, devices=["cpu"])


def holds(mesh, names):
    """Values and gradients of the collectives named are those of a mesh on one device."""
    parts = [torch.randn(5, 3) for _ in mesh.ranks]
    for name in names:
        given = [parts[0]] * len(parts) if name in REPLICATED_IN else parts
        answers = []
        for one in (mesh, Mesh(len(parts), devices=["cpu"])):
            x_ = Shards([part.clone().requires_grad_() for part in given], one)
            y_ = run(one, name, x_, 0, 1)
            (y_ * y_).sum().backward()
            places = [grad.untyped_storage().data_ptr() for grad in x_.grad.shards if grad.numel()]
            assert len(set(places)) == len(places)
            answers.append(y_.shards + x_.grad.shards)
        for actual, expected in zip(*answers, strict=True):
            torch.testing.assert_close(actual, expected)


def test_from_device_to_device(mesh):
    """The general way, for shards on unlike devices (here it copies from the CPU to the CPU)."""
    (group,) = mesh.groups
    group.together = False
    holds(mesh, ORACLE)
    x_ = mesh.replicate(torch.arange(6.0).reshape(2, 3))
    assert torch.equal(mesh.all_reduce(x_, op="max").shards[0], x_.shards[0])


def test_over_distinct_cuda_devices_the_cuda_collectives_run(mesh, monkeypatch):
    """With stand-ins that do what torch.cuda.comm says it does; tests/test_cuda.py runs the real ones."""
    ran = set()

    def reduce_add(inputs, destination):
        ran.add("reduce_add")
        assert 0 <= destination < len(inputs) > 1 and all(x.is_contiguous() for x in inputs)
        return torch.stack(inputs).sum(0)

    def gather(tensors, dim, destination):
        ran.add("gather")
        return torch.cat(tensors, dim)

    def broadcast(tensor, devices):
        ran.add("broadcast")
        assert tensor.is_contiguous() and len(set(devices)) == len(devices)
        return (tensor, *[tensor.clone() for _ in devices[1:]])

    for move in (reduce_add, gather, broadcast):
        monkeypatch.setattr(comm, move.__name__, move)
    (group,) = mesh.groups
    cards = [torch.device("cuda", index) for index in mesh.ranks]
    mesh.groups = [OneProcess(group.members, cards, group.note)]
    holds(mesh, set(ORACLE) - {"all_to_all", "shift"})  # which have none: they copy to each its device
    assert ran == ({"reduce_add", "gather", "broadcast"} if mesh.size > 1 else set())
