"""A tolerance must never reject a correct split, and always reject a wrong one. Both are shown over many cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import gelu

from shardlab import Mesh, Shards
from shardlab.compare import assert_close, compare, dense, errors, kind, through, tolerance

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
CPU = ["cpu"]


def distributions(shape, generator):
    normal = torch.randn(shape, generator=generator)
    yield normal
    yield torch.rand(shape, generator=generator)
    yield normal + 5
    yield normal * (torch.rand(shape, generator=generator) < 0.1)
    yield normal.exp() * torch.randn(shape, generator=generator).sign()


def split_sum(X, W, n):
    """The all-reduce of a row split, by hand: partial sums added in rank order, in X's dtype."""
    total = 0
    for x, w in zip(X.tensor_split(n, 1), W.tensor_split(n, 0), strict=True):
        total = total + x @ w
    return total


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_no_correct_split_is_rejected(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    cases = 0
    while cases < 200:
        K = int(2 ** (16 * torch.rand((), generator=generator).item() ** 1.5))
        n = int(torch.randint(1, 65, (), generator=generator))
        rows, columns = torch.randint(1, 9, (2,), generator=generator).tolist()
        W = (torch.randn(K, columns, generator=generator) / K**0.5).to(dtype)
        for X in distributions((rows, K), generator):
            X = X.to(dtype)
            result = split_sum(X, W, n)
            assert compare(result, X, W, parts=n).passed, (K, n, rows, columns, compare(result, X, W, parts=n))
            cases += 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 8, 64])
def test_no_correct_split_of_the_longest_sums_is_rejected(dtype, n):
    generator = torch.Generator().manual_seed(n)
    W = (torch.randn(65536, 16, generator=generator) / 256).to(dtype)
    for X in distributions((8, 65536), generator):
        assert_close(split_sum(X.to(dtype), W, n), X.to(dtype), W, parts=n)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(st.data())
@settings(max_examples=50, deadline=None)
def test_constant_operands_are_not_rejected_either(dtype, data):
    """All roundings of equal numbers go the same way: where the bound does not count on independence (the short
    types) they are safe, and elsewhere as long as K/2 u stays below 4 √K u."""
    x, w = (torch.tensor(data.draw(st.floats(2**-6, 8, width=16))).to(dtype) for _ in "xw")
    short = dtype in (torch.bfloat16, torch.float16)
    K, n = data.draw(st.integers(1, 300 if short else 64)), data.draw(st.integers(1, 64))
    X, W = x.expand(4, K), w.expand(K, 4)
    assert_close(split_sum(X, W, n), X, W, parts=n)


def wrong_splits(X, W, b, n):
    partials = [x @ w for x, w in zip(X.tensor_split(n, 1), W.tensor_split(n, 0), strict=True)]
    right = sum(partials)
    *first, last, last_but_one = X.tensor_split(n, 1)  # in the wrong order; equally long, as K is even or n odd
    swapped = [x @ w for x, w in zip([*first, last_but_one, last], W.tensor_split(n, 0), strict=True)]
    yield "a shard is missing", sum(partials[1:]) + b
    yield "a shard is counted twice", right + partials[-1] + b
    yield "the bias is added on every shard", right + n * b
    yield "the bias is missing", right
    yield "two shards are swapped", sum(swapped) + b
    yield "the mean for the sum", right / n + b


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 8, 64])
@pytest.mark.parametrize("K", [64, 1024, 65536])
def test_every_wrong_split_is_rejected(dtype, n, K):
    generator = torch.Generator().manual_seed(K + n)
    X = torch.randn(16, K, generator=generator).to(dtype)
    W = (torch.randn(K, 32, generator=generator) / K**0.5).to(dtype)
    b = torch.randn(32, generator=generator).to(dtype)
    assert_close(split_sum(X, W, n) + b, X, W, b, parts=n)
    for name, result in wrong_splits(X, W, b, n):
        assert not compare(result, X, W, b, parts=n).passed, name


def test_each_figure_catches_what_the_other_lets_through():
    X, W = torch.randn(32, 256), torch.randn(256, 32)
    exact, allowed = dense(X, W)
    everywhere = errors("a", exact + 0.9 * allowed, exact, allowed)
    assert everywhere.largest <= allowed.max() and not everywhere.passed
    one = exact.clone()
    one[3, 5] += 2 * allowed[3, 5]
    single = errors("b", one, exact, allowed)
    assert single.rms < single.rms_allowed and single.at == (3, 5) and not single.passed


def test_the_tolerance_knows_its_formula():
    X, W = torch.randn(3, 100), torch.randn(100, 5)
    magnitude = X.double().abs() @ W.double().abs()
    torch.testing.assert_close(tolerance(X, W), 40 * (2**-24 + 2**-53) * magnitude)
    whole, split = (tolerance(X.bfloat16(), W.bfloat16(), parts=n) for n in (1, 8))
    assert (split > whole).all()


@pytest.mark.parametrize(("dtype", "u", "step"), [(torch.bfloat16, 2**-8, 2**-133), (torch.float16, 2**-11, 2**-24)])
def test_the_formula_of_the_short_types_by_hand(dtype, u, step):
    """Two products a sum, in two partial sums: P_0 = 2·3, P_1 = -1·4, and with b they make 6 - 4 + 5 = 7."""
    X, W, b = torch.tensor([[2.0, -1.0]]), torch.tensor([[3.0], [4.0]]), torch.tensor([5.0])
    rounded_in_float32 = 4 * 2**0.5 * (2**-24 + 2**-53) * (6 + 4 + 5)
    sizes = (6 + 4) + (6 + 2) + 2 * 7  # both P, both running sums, and the result, which is rounded twice with b
    value, allowed = dense(X.to(dtype), W.to(dtype), b.to(dtype), parts=2)
    assert value.item() == 7
    torch.testing.assert_close(allowed.item(), rounded_in_float32 + u * sizes + 5 * step, rtol=1e-12, atol=0)


def test_an_empty_sum_and_numbers_below_the_smallest_step():
    assert compare(torch.zeros(2, 3), torch.ones(2, 0), torch.ones(0, 3)).passed
    assert not compare(torch.full((2, 3), 1e-30), torch.ones(2, 0), torch.ones(0, 3)).passed
    tiny = torch.full((1, 1), 2.0**-24, dtype=torch.float16)
    assert compare(torch.zeros(1, 1, dtype=torch.float16), tiny, torch.full_like(tiny, 0.5)).passed


def test_figures_are_those_of_the_worst_element_against_its_own_tolerance():
    want, allowed = torch.tensor([[100.0, 1.0]]).double(), torch.tensor([[1.0, 0.015625]]).double()
    found = errors("a", torch.tensor([[100.5, 1.02]]), want, allowed)
    assert found.at == (0, 1) and found.allowed == 0.015625 and not found.passed
    assert found.largest == 0.5 and found.relative == 0.005


def test_both_ends_of_the_tolerance_go_through_a_function():
    value, allowed = torch.tensor([0.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double()
    _, wide = through(torch.relu, value, allowed)
    assert wide.tolist() == [0.5, 0.5]
    _, wide = through(lambda x: torch.relu(-x), value, allowed)
    assert wide.tolist() == [0.5, 0.0]


def test_the_default_tolerance_of_torch_rejects_correct_code():
    torch.manual_seed(0)
    X, W = torch.randn(64, 4096), torch.randn(4096, 64)
    y = split_sum(X, W, 4)
    assert_close(y, X, W, parts=4)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(y, X @ W)


@pytest.mark.parametrize("n", range(1, 9))
def test_shards_are_compared_one_by_one(n):
    mesh, X, W, b = Mesh(n, devices=CPU), torch.randn(2, 3, 10), torch.randn(10, 11), torch.randn(11)
    row_ = mesh.all_reduce(mesh.shard(X, dim=-1) @ mesh.shard(W, dim=0)) + mesh.replicate(b)
    comparison = compare(row_, X, W, b)
    assert comparison.passed and [row.shard for row in comparison.rows] == [f"shard {rank}" for rank in range(n)]
    column_ = mesh.replicate(X) @ mesh.shard(W, dim=1) + mesh.shard(b, dim=0)
    assert compare(column_, X, W, b, dim=-1).passed
    broken_ = row_ + (mesh.rank == n - 1)
    assert [row.passed for row in compare(broken_, X, W, b).rows] == [True] * (n - 1) + [False]


@pytest.mark.parametrize("f", [gelu, torch.relu, torch.tanh, torch.exp], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_through_a_nonlinearity(f, dtype):
    generator = torch.Generator().manual_seed(7)
    for n in range(2, 9):
        mesh = Mesh(n, devices=CPU)
        X = torch.randn(8, 96, generator=generator).to(dtype)
        W = (torch.randn(96, 24, generator=generator) / 96**0.5).to(dtype)
        p_ = mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)
        assert_close(f(mesh.all_reduce(p_)), X, W, f=f)
        assert not compare(mesh.all_reduce(f(p_)), X, W, f=f).passed


def test_what_cannot_be_compared_is_an_error():
    X, W = torch.randn(2, 3), torch.randn(3, 4)
    with pytest.raises(AssertionError, match=r"shape \[2, 3\].*\[2, 4\]"):
        compare(torch.randn(2, 3), X, W)
    with pytest.raises(AssertionError, match="empty"):
        compare(torch.randn(0, 4), X[:0], W)
    with pytest.raises(TypeError, match="one floating dtype"):
        compare(X @ W, X, W.double())
    with pytest.raises(ValueError, match="does not fit"):
        compare(X @ W, X, W.T)
    empty_ = Mesh(3, devices=CPU).shard(X @ W[:, :2], dim=1)
    with pytest.raises(AssertionError, match="shard 2 is empty"):
        compare(empty_, X, W[:, :2], dim=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_are_never_close(bad):
    X, W = torch.randn(4, 5), torch.randn(5, 6)
    result = X @ W
    result[1, 2] = bad
    comparison = compare(result, X, W)
    assert not comparison.passed and comparison.rows[0].at == (1, 2)


def test_it_shows_itself():
    X, W = torch.randn(4, 5), torch.randn(5, 6)
    right, wrong = compare(X @ W, X, W), compare(2 * (X @ W), X, W)
    assert "close" in repr(right) and "too far" in repr(wrong)
    assert "<table>" in wrong._repr_html_() and "too far" in wrong._repr_html_()
    with pytest.raises(AssertionError, match="too far"):
        assert_close(2 * (X @ W), X, W)


# of what kind a Shards is

KINDS = {
    "replicated": lambda mesh, x, dim: mesh.replicate(x),
    "cut along dim 0": lambda mesh, x, dim: mesh.shard(x, 0),
    "cut along dim 1": lambda mesh, x, dim: mesh.shard(x, 1),
    "partial": lambda mesh, x, dim: partials(mesh, x),
    "none of these": lambda mesh, x, dim: mesh.replicate(x) + mesh.rank + 1,
}


def partials(mesh, x):
    """Random tensors that add up to x."""
    parts = [torch.randn_like(x, dtype=torch.float64) for _ in range(mesh.size - 1)]
    parts.append(x.double() - sum(parts))
    return Shards([part.to(x.dtype) for part in parts], mesh)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_kind_of_a_shards_is_measured(name, n, dtype):
    mesh, x = Mesh(n, devices=["cpu"]), torch.randn(4, 6).to(dtype)
    found = kind(KINDS[name](mesh, x, None), x)
    assert found.name == name and repr(found).startswith(name)
    assert f">{name}</span>" in found._repr_html_()
    worst = [off for reading, off in found.off.items() if reading != name]
    assert min(worst) > 0.1  # nothing else is near


def test_the_kind_of_a_gradient_tells_what_is_missing():
    mesh, X, W = Mesh(4, devices=["cpu"]), torch.randn(3, 5), torch.randn(5, 8)
    want = torch.ones(3, 8) @ W.T
    for f, name in ((mesh.copy, "replicated"), (lambda x_: x_, "partial")):
        x_ = mesh.replicate(X.requires_grad_())
        (f(x_) @ mesh.shard(W, dim=1)).sum().backward()
        assert kind(x_.grad, want).name == name
    x_ = mesh.replicate(X)
    (mesh.copy(mesh.copy(x_)) @ mesh.shard(W, dim=1)).sum().backward()
    assert repr(kind(x_.grad, want)).startswith("none of these: every shard is 4 times it")


def test_kinds_at_the_edges():
    one, mesh = Mesh(1, devices=["cpu"]), Mesh(3, devices=["cpu"])
    x = torch.randn(2, 3)
    assert kind(one.replicate(x), x).name == "replicated"
    assert kind(mesh.replicate(torch.zeros(2)), torch.zeros(2)).name == "replicated"
    assert kind(mesh.replicate(torch.tensor(2.0)), torch.tensor(2.0)).name == "replicated"
    assert kind(mesh.replicate(torch.empty(0, 2)), torch.empty(0, 2)).name == "replicated"
    assert kind(mesh.shard(x, 0), x).name == "cut along dim 0"  # the third shard is empty
    assert repr(kind(mesh.replicate(x * torch.nan), x)) == "none of these"
    each_another = kind(mesh.replicate(x) * (mesh.rank + 1), x)
    assert repr(each_another).startswith("none of these: the shards add up to 6 times it")
    assert repr(kind(partials(mesh, 2 * x), x)).startswith("none of these: the shards add up to 2 times it")
    assert repr(kind(mesh.shard(x, 0), torch.ones(7, 7))) == "none of these"
    both = Mesh(dp=2, tp=3, devices=["cpu"])
    assert kind(both["tp"].shard(x, 1), x, both["tp"]).name == "cut along dim 1"
    for wrong in ((x, x), (mesh.replicate(x), None)):
        with pytest.raises(TypeError, match="kind holds a Shards against a tensor"):
            kind(*wrong)
