"""The labs, without a browser: the numbers against the dense oracle, and what the widgets show of them."""

import re
import subprocess
import sys
from html import unescape
from xml.etree import ElementTree

import ipywidgets as widgets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import gelu, relu

from notebook_tools import LESSONS
from shardlab import Mesh, labs
from shardlab.compare import compare
from shardlab.labs import lab00_devices, lab02_before_reduction, lab03_tolerance, lab13_ranks, predicting
from shardlab.labs.activations import ACTIVATIONS
from shardlab.labs.lab import Lab, below, menu, slider, steps, switch
from shardlab.labs.lab03_tolerance import added
from shardlab.pictures import svg

each_lab = pytest.mark.parametrize("name", labs.LABS)
ADDITIVE = {"identity", "3 x"}  # f(a) + f(b) = f(a + b)


@pytest.fixture(scope="module", autouse=True)
def no_rank_is_left():
    yield
    lab13_ranks.pools.close()


def ends(control):
    """The values of a control that a test tries: every option, or both ends."""
    return [control.min, control.max] if isinstance(control, widgets.IntSlider) else [*options(control).values()]


def options(control):
    return {
        str(option[0] if isinstance(option, tuple) else option): option[1] if isinstance(option, tuple) else option
        for option in control.options
    }


def words(html):
    """What a lab says outside its drawing."""
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)).split()))


# The labs as widgets


@each_lab
def test_every_value_of_every_control_is_drawn(name):
    """Each control, from one end to the other, shows just what the pure function draws of its state."""
    factory, draw, _ = labs.LABS[name]
    lab = factory()
    for control in lab.controls.values():
        start = control.value
        for value in ends(control):
            control.value = value
            assert lab.screen.value == draw(**lab.state)
            for drawing in re.findall(r"<svg.*?</svg>", lab.screen.value, flags=re.S):
                shown = ElementTree.fromstring(drawing)
                assert shown.get("role") == "img" and len(shown.get("aria-label")) > 10
        control.value = start


@each_lab
def test_every_control_changes_the_picture(name):
    lab = labs.LABS[name][0]()
    for key, control in lab.controls.items():
        start, shown = control.value, set()
        for value in ends(control):
            control.value = value
            shown.add(lab.screen.value)
        assert len(shown) > 1, key
        control.value = start


@each_lab
def test_every_control_is_labelled(name):
    for control in labs.LABS[name][0]().controls.values():
        assert control.description and control.tooltip


@each_lab
def test_still_picture_is_the_lab_without_its_controls(name):
    factory, draw, _ = labs.LABS[name]
    lab = factory()
    still = getattr(labs, f"{name}_picture")
    assert still().data == lab.screen.value
    assert lab.state == {**lab.state} and repr(lab).startswith("Lab(")


@each_lab
def test_states_to_measure_are_states_of_the_lab(name):
    factory, draw, states = labs.LABS[name]
    lab = factory()
    for changes in states:
        assert changes.keys() <= lab.state.keys()
        for key, value in changes.items():
            lab.controls[key].value = value
        assert draw(**lab.state)


@each_lab
def test_a_lab_starts_where_it_is_told_to(name):
    factory, _, states = labs.LABS[name]
    assert factory(**states[-1]).state == {**factory().state, **states[-1]}


def test_only_some_controls_are_in_sight():
    lab = labs.split(how="row", shards=3).only("shards")
    shown = {name for name, control in lab.controls.items() if control.layout.display != "none"}
    assert shown == {"shards"} and lab.state == labs.split(how="row", shards=3).state
    lab.controls["shards"].value = 2
    assert lab.screen.value == labs.split_picture(how="row", shards=2).data
    with pytest.raises(ValueError, match="no control is called 'rank': there are how, shards"):
        lab.only("rank")


def test_a_burst_draws_once_a_change_and_ends_on_the_last():
    drawn = []
    lab = Lab({"n": slider("n", 1, 1, 16, "a number")}, lambda n: drawn.append(n) or f"<b>{n}</b>")
    for value in [2, 3, 3, 4, 5, 5, 5, 16]:
        lab.controls["n"].value = value
    assert drawn == [1, 2, 3, 4, 5, 16] and lab.screen.value == "<b>16</b>"


def test_what_goes_wrong_is_shown():
    def draw(n):
        return f"{12 // n}"

    lab = Lab({"n": slider("n", 4, 0, 4, "a number")}, draw)
    lab.controls["n"].value = 0
    assert "ZeroDivisionError: integer division" in words(lab.screen.value)
    lab.controls["n"].value = 3
    assert lab.screen.value == "4"


def test_a_lab_draws_on_one_thread_and_leaves_torchs_own_number():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        lab = Lab({"n": slider("n", 1, 1, 4, "a number")}, lambda n: seen.append(torch.get_num_threads()) or "")
        lab.controls["n"].value = 2
        assert seen == [1, 1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "control",
    [
        slider("a", 2, 1, 4, "tip"),
        steps("a", 2, [1, 2, 4], "tip"),
        menu("a", 2, [("two", 2), ("three", 3)], "tip"),
        switch("a", 2, [1, 2], "tip"),
    ],
    ids=lambda control: type(control).__name__,
)
def test_controls(control):
    assert (control.value, control.description, control.tooltip) == (2, "a", "tip")


@pytest.mark.parametrize(("error", "said"), [(3e-7, "1e-06"), (1e-6, "1e-06"), (2.0, "1e+01"), (0.0, "0")])
def test_below(error, said):
    assert below(error) == said


def test_shardlab_imports_neither_widgets_nor_matplotlib():
    code = "import shardlab, sys; print(*{'ipywidgets', 'matplotlib', 'IPython'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


# 01: the split


def test_seed_data_is_the_seeds_and_leaves_the_global_seed_alone():
    torch.manual_seed(42)
    X, W = torch.randn(2, 4), torch.randn(4, 4)
    state = torch.get_rng_state()
    got = labs.seed_data()
    assert torch.equal(got[0], X) and torch.equal(got[1], W)
    assert torch.equal(torch.get_rng_state(), state)


BASELINE = [[0.5324, 0.2612, 0.0106, 0.7086], [1.1399, 2.8075, 1.8650, 1.5034]]
TOO_EARLY = [[0.4549, 0.2409, 0.0150, 0.5894], [2.8925, 2.8190, 1.6791, 2.2097]]


@pytest.mark.parametrize(
    ("how", "when", "want"),
    [
        ("column", "before", BASELINE),
        ("column", "after", BASELINE),
        ("row", "after", BASELINE),
        ("row", "before", TOO_EARLY),
    ],
)
def test_the_seeds_numbers(how, when, want):
    lab = labs.split(how=how, when=when)
    got = labs.split_result(**lab.state)
    torch.testing.assert_close(got.y, torch.tensor(want), rtol=0, atol=6e-5)
    torch.testing.assert_close(got.baseline, torch.tensor(BASELINE), rtol=0, atol=6e-5)
    for value in got.y.flatten().tolist():
        assert f">{svg.short(value)}</text>" in lab.screen.value
    assert words(lab.screen.value).startswith("✗ Mismatch." if want is TOO_EARLY else "✓ Match.")
    assert (">up to 1.8<" in lab.screen.value) == (want is TOO_EARLY)  # the map


@settings(deadline=None, max_examples=80)
@given(
    how=st.sampled_from(["column", "row"]),
    shards=st.integers(1, 16),
    activation=st.sampled_from([*ACTIVATIONS]),
    when=st.sampled_from(["before", "after"]),
    dtype=st.sampled_from(["float32", "bfloat16", "float64"]),
    rows=st.integers(1, 8),
    inner=st.integers(1, 24),
    outer=st.integers(1, 24),
)
def test_split_against_the_dense_oracle(how, shards, activation, when, dtype, rows, inner, outer):
    got = labs.split_result(how, shards, activation, when, dtype, rows, inner, outer)
    f = ACTIVATIONS[activation]
    X, W = (tensor.to(getattr(torch, dtype)) for tensor in labs.seed_data(rows, inner, outer))
    torch.testing.assert_close(got.baseline, f(X @ W))
    if how == "column":
        want, name, whole = f(X @ W), "all_gather", (rows, outer)
    else:
        parts = [x @ w for x, w in zip(X.tensor_split(shards, 1), W.tensor_split(shards, 0), strict=True)]
        want = sum(map(f, parts)) if when == "before" else f(sum(parts))
        name, whole = "all_reduce", (rows, outer)
    loose = {"bfloat16": 0.3, "float32": 1e-3, "float64": 1e-9}[dtype]
    torch.testing.assert_close(got.y.double(), want.double(), rtol=loose, atol=loose)
    assert got.traffic.names == [name]
    assert got.traffic.payload == X.element_size() * whole[0] * whole[1]
    if how == "column" or when == "after" or shards == 1 or activation in ADDITIVE:
        assert got.matches
    elif activation == "x + 1":
        assert not got.matches  # off by shards - 1, everywhere


def test_rounding_is_told_as_it_is():
    said = words(labs.split_picture("row", 4, dtype="bfloat16", inner=64).data)
    assert re.search(r"off by at most 0\.\d{2,3}, mere rounding", said), said
    assert "below 1e-06, mere rounding" in words(labs.split_picture("row", 4).data)


CANVAS = {  # the controls of a lab that may change the size of its picture
    "split": {"how", "rows", "inner", "outer"},
    "uneven": {"shards"},
    "devices": {"gpus"},
}


@pytest.mark.parametrize("name", CANVAS)
def test_the_canvas_stays_where_it_is(name):
    lab = labs.LABS[name][0]()
    for key in lab.controls.keys() - CANVAS[name]:
        start, sizes = lab.controls[key].value, set()
        for value in ends(lab.controls[key]):
            lab.controls[key].value = value
            sizes |= set(re.findall(r'viewBox="[^"]*"', lab.screen.value))
        assert len(sizes) == 1, key
        lab.controls[key].value = start


def test_where_most_is_for_nothing_there_is_no_tick():
    assert "✓" not in labs.uneven_picture(1, 16, "pad").data and "✓" in labs.uneven_picture(10, 4, "pad").data
    assert "94 % of what the shards could do meanwhile is for nothing" in words(labs.uneven_picture(1, 16, "pad").data)


def test_bytes_are_those_that_moved():
    lab = labs.split(how="row", shards=4)
    assert "One all_reduce adds the partial sums: 32 bytes; if a ring carries them, each shard sends 48" in words(
        lab.screen.value
    )


@pytest.mark.parametrize("shards", [4, 8, 16])
def test_the_rounding_of_every_partial_sum_is_allowed_for(shards):
    """bfloat16 rounds each partial sum: what one product may be off is too little for a row split."""
    got = labs.split_result("row", shards, "identity", "after", "bfloat16", 32, 64, 64)
    assert got.matches
    alone = compare(got.y, got.X, got.W, parts=1)
    assert not alone.passed


# 02: before the reduction


def by_hand(f, shards, scale=1.0):
    generator = torch.Generator().manual_seed(42)
    X = scale * torch.randn(16, 1024, generator=generator)
    W = torch.randn(1024, 1024, generator=generator) / 32
    parts = [x @ w for x, w in zip(X.chunk(shards, 1), W.chunk(shards, 0), strict=True)]
    right = f(X @ W)
    return ((sum(map(f, parts)) - right).norm() / right.norm()).item()


@pytest.mark.parametrize(("f", "want"), [(gelu, [37, 45, 48, 50]), (relu, [43, 72, 115, 178])])
def test_figures_of_the_contrast(f, want):
    """GELU saturates near 50 %, ReLU keeps growing."""
    got = [100 * labs.activation_error(f, shards) for shards in (2, 4, 8, 16)]
    assert got == pytest.approx(want, abs=1.0)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("shards", "scale"), [(1, 1.0), (4, 1.0), (16, 0.25), (2, 8.0)])
def test_activation_error_against_plain_torch(name, shards, scale):
    f = ACTIVATIONS[name]
    got = labs.activation_error(f, shards, scale)
    assert got == pytest.approx(by_hand(f, shards, scale), rel=1e-3, abs=1e-6)
    assert (got < 1e-6) == (shards == 1 or name in ADDITIVE)


@pytest.mark.parametrize(
    ("activation", "said"),
    [
        ("gelu", "✗ gelu on 4 shards: 45 % wrong. On 2 it was 37 %."),
        ("relu", "✗ relu on 4 shards: 72 % wrong. On 2 it was 43 %."),
        ("tanh", "✗ tanh on 4 shards: 45 % wrong. On 2 it was 32 %."),
        ("identity", "✓ identity may come before the reduction. On 16 shards the error is below 1e-06"),
        ("3 x", "✓ 3 x may come before the reduction."),
    ],
)
def test_before_reduction_says_it(activation, said):
    lab = labs.before_reduction()
    lab.controls["activation"].value = activation
    assert words(lab.screen.value).startswith(said)
    assert lab.screen.value.count(f">{activation} of the sum: ") == 2  # what each drawing's curve is


@pytest.mark.parametrize("output", lab02_before_reduction.OUTPUTS)
@pytest.mark.parametrize("activation", ["gelu", "relu", "sigmoid", "identity"])
def test_one_output_is_what_plain_torch_makes_of_it(activation, output):
    """The two results of one output that the picture names, from the seed's numbers without a mesh."""
    f, (row, column) = ACTIVATIONS[activation], lab02_before_reduction.OUTPUTS[output]
    X, W = labs.seed_data(16, 1024, 1024)
    for shards in lab02_before_reduction.SHARDS:
        pieces = zip(X[row].double().chunk(shards), W[:, column].double().div(32).chunk(shards), strict=True)
        parts = torch.stack([x @ w for x, w in pieces])
        assert parts.sum().item() == pytest.approx(eval(output), abs=0.1)
        shown = labs.before_reduction_picture(activation, shards, output=output).data
        for name, value in {
            f"{activation} of the sum": f(parts.sum()),
            f"sum of {activation}": f(parts).sum(),
        }.items():
            (number,) = re.findall(rf">{name}: (-?[\d.]+)", shown)
            assert float(number) == pytest.approx(value.item(), abs=0.006)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_axes_stay_while_the_number_of_shards_moves(activation):
    """One frame for every number of shards, and every result within it."""
    frames = set()
    for shards in lab02_before_reduction.SHARDS:
        drawings = re.findall(r"<svg.*?</svg>", labs.before_reduction_picture(activation, shards).data)
        frames |= {
            re.sub(r'aria-label="[^"]*"|<text x="\d+" y="3[5-9]\d.*|<(path|circle).*?/>', "", d) for d in drawings
        }
        box = lab02_before_reduction.curve_and_box(activation, 1.0)[1]
        assert all(box[2] <= wrong <= box[3] for wrong in lab02_before_reduction.outputs(activation, shards, 1.0)[1])
    assert len(frames) == 2


def test_the_relu_of_a_scaled_input_is_the_same_picture():
    """`relu(c x) = c relu(x)`: only the numbers at the axes differ; of tanh less and less is bent."""
    bent = {}
    for activation in ("relu", "tanh"):
        for scale in (0.125, 1.0):
            curve, (_, high, *_) = lab02_before_reduction.curve_and_box(activation, scale)
            bent[activation, scale] = max(abs(y - max(x, 0)) for x, y in curve if x >= 0) / high
    assert bent["relu", 0.125] == bent["relu", 1.0] == 0
    assert bent["tanh", 0.125] < 0.06 < 0.6 < bent["tanh", 1.0]


# 03: tolerance


def test_defaults_are_torchs_own():
    for name, (rtol, atol) in lab03_tolerance.DEFAULTS.items():
        one = torch.zeros(1, dtype=getattr(torch, name))
        torch.testing.assert_close(one + 1, one + 1 + rtol / 4)
        with pytest.raises(AssertionError, match=re.escape(f"(up to {atol} allowed)")):
            torch.testing.assert_close(one, one + 1)
        with pytest.raises(AssertionError, match=re.escape(f"(up to {rtol} allowed)")):
            torch.testing.assert_close(one, one + 1)


@pytest.mark.parametrize("dtype", lab03_tolerance.DEFAULTS)
@pytest.mark.parametrize("order", lab03_tolerance.ORDERS)
@pytest.mark.parametrize("shards", [1, 8, 64])
@pytest.mark.parametrize("K", [64, 1024])
def test_ours_passes_every_right_split_and_no_missing_shard(dtype, order, shards, K):
    right = labs.tolerance_result(dtype, K, shards, order)
    assert right.passed and right.reach < 1
    missing = labs.tolerance_result(dtype, K, shards, order, "a shard missing")
    assert not missing.passed and missing.reach > 1


def test_torchs_default_rejects_right_splits():
    assert labs.tolerance_result("float32", 64, 8).rejected == 0
    assert labs.tolerance_result("float32", 4096, 8).rejected > 0
    for K in lab03_tolerance.KS:
        assert labs.tolerance_result("bfloat16", K, 8).rejected > 0
    said = words(labs.tolerance_picture("bfloat16", 256, 8).data)
    assert "Our tolerance passes the right split, rejects the lost shard" in said
    assert "✗ torch's default rejects all three." in said and "of the 256 of the right split." in said


def test_a_small_mistake_hides_in_bfloat16_alone():
    state = {"K": 1024, "shards": 64}
    assert not labs.tolerance_result("float32", **state, answer="a shard 1 % off").passed
    assert labs.tolerance_result("bfloat16", **state, answer="a shard 1 % off").passed
    said = words(labs.tolerance_picture("bfloat16", **state).data)
    assert "✗ Our tolerance passes the right split, rejects the lost shard, passes the 1 %." in said


@pytest.mark.parametrize("dtype", lab03_tolerance.DEFAULTS)
@pytest.mark.parametrize(("K", "shards"), [(64, 64), (1024, 4), (1024, 64)])
def test_what_is_said_of_ours_is_so(dtype, K, shards):
    """The shares that a picture tells, against those of `compare`: the largest error, and the root mean square."""
    X, W = (tensor.to(getattr(torch, dtype)) for tensor in labs.seed_data(16, K, 16))
    wide = labs.tolerance_result(dtype, K, shards, answer="a shard 1 % off")
    mesh = Mesh(shards)
    p_ = mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)
    y_ = mesh.all_reduce(p_ * torch.where(mesh.rank == shards - 1, 1.01, 1.0))
    row = compare(y_, X, W).rows[0]
    assert wide.passed == row.passed
    assert wide.mean_reach == pytest.approx(row.rms / row.rms_allowed, rel=0.05)


@pytest.mark.parametrize(
    ("line", "does"),
    [
        (1e-7, "✗ Your line, 1e-07, rejects all three."),
        (1e-2, "✓ Your line, 0.01, passes the right split, rejects both wrong ones."),
        (10.0, "✗ Your line, 10, passes the right split, rejects the lost shard, passes the 1 %."),
        (1e3, "✗ Your line, 1000, passes all three."),
    ],
)
def test_a_line_of_your_own_is_judged(line, does):
    assert does in words(labs.tolerance_picture(K=4096, line=line).data)
    assert "Your line" not in words(labs.tolerance_picture(K=4096).data)


def test_no_line_is_right_about_every_length_in_bfloat16_and_ours_is():
    """Why a tolerance depends on K: what passes right sums of 16,384 products passes a wrong one of 64."""

    def result(K, answer):
        return labs.tolerance_result("bfloat16", K, 4, answer=answer)

    assert result(16384, "right").error.max() > result(64, "a shard 1 % off").error.max()
    assert result(16384, "right").passed and not result(64, "a shard missing").passed


@settings(deadline=None, max_examples=20)
@given(
    dtype=st.sampled_from([*lab03_tolerance.DEFAULTS]),
    K=st.sampled_from([64, 512]),
    shards=st.sampled_from(lab03_tolerance.SHARDS),
    order=st.sampled_from(lab03_tolerance.ORDERS),
)
def test_errors_against_plain_torch(dtype, K, shards, order):
    got = labs.tolerance_result(dtype, K, shards, order)
    X, W = (tensor.to(getattr(torch, dtype)) for tensor in labs.seed_data(16, K, 16))
    torch.testing.assert_close(got.exact, X.double() @ W.double())
    parts = [x @ w for x, w in zip(X.chunk(shards, 1), W.chunk(shards, 0), strict=True)]
    y = added(parts, order)
    torch.testing.assert_close(got.error, (y.double() - got.exact).abs())
    rtol, atol = lab03_tolerance.DEFAULTS[dtype]
    passes = torch.isclose(y.double(), got.exact, rtol=rtol, atol=atol)
    assert got.rejected == (~passes).sum().item()


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=70))
def test_every_order_adds_every_part_once(values):
    parts = [torch.tensor(value) for value in values]
    assert {added(parts, order).item() for order in lab03_tolerance.ORDERS} == {sum(values)}


def test_orders_differ_where_rounding_does():
    big, small = torch.tensor(256.0, dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.bfloat16)
    parts = [big, small, small, small]
    assert [added(parts, order).item() for order in ("rank", "reversed", "pairwise")] == [256, 260, 258]


# 04: uneven


@settings(deadline=None, max_examples=60)
@given(width=st.integers(1, 64), shards=st.integers(1, 16), way=st.sampled_from(["tensor_split", "pad", "chunk"]))
def test_uneven_against_the_dense_oracle(width, shards, way):
    got = labs.uneven_result(width, shards, way)
    X, W = labs.seed_data(2, 8, width)
    torch.testing.assert_close(got.y, X @ W)
    assert got.close.passed and len(got.columns) == shards
    assert sum(got.columns) == width + got.padding
    assert got.payload == 4 * 2 * sum(got.columns)
    if way == "pad":
        assert got.waiting == 0 and got.padding == -width % shards
    else:
        pieces = getattr(torch, way)(W, shards, dim=1)
        assert got.columns == [p.shape[1] for p in pieces] + [0] * (shards - len(pieces))
        assert got.waiting == pytest.approx(1 - width / shards / max(got.columns))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("tensor_split", "Some shards wait: the longest has 2 columns and the shortest 1, so on average"),
        ("pad", "4 columns of padding: 128 FLOPs and 32 of 112 gathered bytes are for nothing, 40 % more work."),
        ("chunk", "✗ torch.chunk made 5 pieces for 7 shards: 2 shards have none at all"),
    ],
)
def test_uneven_says_it(way, said):
    lab = labs.uneven(width=10, shards=7)
    lab.controls["way"].value = way
    assert said in words(lab.screen.value)
    assert "✓ The result is right." in words(lab.screen.value)


# 00: devices


def test_devices_of_this_machine_are_asked():
    devices, real = labs.devices_result(5)
    here = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    assert real and devices == [here[rank % len(here)] for rank in range(5)]
    assert words(labs.devices_picture(5).data).startswith("✓ Real: each shard was asked where it is. 5 shards on")


@pytest.mark.parametrize("gpus", lab00_devices.GPUS)
def test_a_plan_says_that_it_is_one(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    devices, real = labs.devices_result(6, gpus)
    assert not real and devices == [f"cuda:{rank % gpus}" for rank in range(6)]
    said = words(labs.devices_picture(6, gpus).data)
    assert said.startswith("A plan, not real: this machine has no GPUs;") and "asked" not in said
    assert ("stand idle" in said) == (gpus > 6)


# predictions


def asked(reveal="<b>what happens</b>", answer="2"):
    return labs.predict("1 + 1 < 3, so 1 + 1 = ?", ["1", "2"], reveal, answer)


def test_a_prediction_shows_nothing_before_it_is_committed_to():
    calls = []
    prediction = asked(lambda: calls.append(1) or "<b>what happens</b>")
    question = prediction.children[0].value
    assert "1 + 1 &lt; 3" in question  # escaped
    assert prediction.button.disabled and prediction.choice.value is None
    prediction.choice.value = "1"
    assert not prediction.button.disabled and prediction.screen.value == "" and not calls
    prediction.button.click()
    assert prediction.screen.value.endswith("<b>what happens</b>")
    assert words(prediction.screen.value).startswith("✗ You said: 1. It is: 2.")
    assert prediction.choice.disabled and prediction.choice.value == "1"
    prediction.button.click()
    assert calls == [1]


def test_a_right_prediction_and_one_without_an_answer():
    for answer, said in [("2", "✓ You said: 2. So it is."), (None, "You said: 2.")]:
        prediction = asked(answer=answer)
        prediction.choice.value = "2"
        prediction.button.click()
        assert words(prediction.screen.value).startswith(said)


def test_a_prediction_reveals_what_shows_itself():
    from shardlab import plots

    x_ = Mesh(2, devices=["cpu"]).replicate(torch.ones(2))
    figure = plots.mismatch(torch.ones(2, 2), torch.zeros(2, 2))
    shown = {
        '<img alt="2 shards': x_,
        '<img alt="got - want': figure,
        "✓ Match": labs.split_picture,
        "<pre>[3]</pre>": [3],
    }
    for part, reveal in shown.items():
        prediction = asked(reveal)
        prediction.choice.value = "1"
        prediction.button.click()
        assert part in prediction.screen.value.replace("<b>", "")


def test_a_reveal_that_fails_says_so():
    prediction = asked(lambda: 1 // 0)
    prediction.choice.value = "1"
    prediction.button.click()
    assert "You said: 1." in words(prediction.screen.value)
    assert "ZeroDivisionError" in words(prediction.screen.value)


def test_a_prediction_wants_its_answer_among_the_options():
    with pytest.raises(ValueError, match="'3' is not among the options"):
        asked(answer="3")


def test_a_prediction_of_ones_own_reads_without_a_kernel():
    still = asked().still()
    assert "1 + 1 &lt; 3" in still and still.count("<li>") == 2
    assert "what happens" not in still and "<details>" in still and "<details>" not in asked(answer=None).still()
    assert repr(asked()) == "1 + 1 < 3, so 1 + 1 = ?\n( ) 1\n( ) 2"


@pytest.mark.parametrize("number", predicting.LESSONS)
def test_the_question_of_a_lesson(number):
    """It shows what is asked; the answer, and why, are folded away on paper, and come with a choice in the widget."""
    prediction, question = labs.predict(number), predicting.LESSONS[number]
    open_, _, folded = prediction.still().partition("<details>")
    assert words(open_) == " ".join([question.asked, *question.options])
    assert question.answer in words(folded) and question.because in words(folded)
    for choice in question.options:
        prediction = labs.predict(number)
        prediction.choice.value = choice
        assert question.because not in words(prediction.children[0].value + prediction.screen.value)
        prediction.button.click()
        right = "✓" if choice == question.answer else "✗"
        shown = words(prediction.screen.value)
        assert shown.startswith(f"{right} You said: {choice}.") and question.because in shown
        assert "Error:" not in shown


def test_every_lesson_has_its_question():
    assert {path.name[:2] for path in LESSONS} <= set(predicting.LESSONS)


def test_a_lesson_without_a_question():
    with pytest.raises(ValueError, match="lesson '99' has no question: 00, 01"):
        labs.predict("99")
