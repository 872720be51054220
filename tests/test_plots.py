"""The matplotlib figures: they show themselves with words, the same each time; and the pictures of the prose."""

import base64
import io
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from torch.nn.functional import gelu

from shardlab import plots
from shardlab.pictures.svg import COLOURS

ROOT = Path(__file__).resolve().parent.parent
PICS = ("matmul", "column_wise_parallel", "row_wise_parallel")
X, W = torch.arange(8.0).reshape(2, 4) / 4 - 1, torch.arange(16.0).reshape(4, 4) / 8 - 1
ERRORS = {"gelu": [0.0, 0.37, 0.45], "relu": [0.0, 0.43, 0.72], "identity": [0.0, 2.6e-7, 2.5e-7]}
FIGURES = {
    "product": lambda: plots.product(X, W, gelu(X @ W), "gelu"),
    "large product": lambda: plots.product(torch.ones(9, 40), torch.ones(40, 70), torch.ones(9, 70)),
    "column": lambda: plots.split(X, W, X @ W, "column", 2),
    "row": lambda: plots.split(X, W, X @ W, "row", 2),
    "uneven": lambda: plots.split(X, W, X @ W, "row", 3, f="relu", when="before"),
    "empty pieces": lambda: plots.split(X, W, X @ W, "column", 5),
    "large split": lambda: plots.split(torch.ones(9, 40), torch.ones(40, 70), torch.ones(9, 70), "column", 6),
    "mismatch": lambda: plots.mismatch(X + torch.eye(2, 4), X),
    "large mismatch": lambda: plots.mismatch(torch.ones(70, 50), torch.zeros(70, 50)),
    "no mismatch": lambda: plots.mismatch(X, X),
    "mismatch by shards": lambda: plots.mismatch_by_shards(ERRORS, [1, 2, 4]),
    "mismatch by shards, log": lambda: plots.mismatch_by_shards(ERRORS, [1, 2, 4], log=True),
    "additivity": lambda: plots.additivity(gelu),
    "additivity of a linear function": lambda: plots.additivity(lambda x: 3 * x, "triple"),
    "error by k": lambda: plots.error_by_k({"float32": [2e-7, 4e-7]}, [64, 1024], {"float32": [1e-6, 2e-6]}),
    "error by k alone": lambda: plots.error_by_k({"float32": [2e-7, 4e-7]}, [64, 1024]),
}


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("name", FIGURES)
def test_shows_itself_in_a_cell(name):
    figure = FIGURES[name]()
    shown, _ = DisplayFormatter().format(figure)
    assert set(shown) == {"text/html", "text/plain"}
    assert shown["text/plain"] == figure.alt and len(figure.alt) > 30 and "\n" not in figure.alt
    alt, width, data = re.fullmatch(
        r'<img alt="([^"]+)" width="(\d+)" [^>]*src="data:image/png;base64,([^"]+)">', shown["text/html"]
    ).groups()
    assert alt == figure.alt.replace("&", "&amp;")
    picture = pixels(base64.b64decode(data))
    assert int(width) < picture.shape[1] < 2 * int(width), "drawn finer than shown"
    assert (picture[[0, -1]] == 255).all() and (picture[:, [0, -1]] == 255).all(), "a white card, and nothing cut off"
    assert picture.min() < 80


@pytest.mark.parametrize("name", ["row", "mismatch", "mismatch by shards", "additivity"])
def test_is_the_same_each_time_whatever_the_reader_has_set(name):
    once = FIGURES[name]().png()
    assert b"tEXt" not in once, "no version and no date in the file"
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        assert FIGURES[name]().png() == once


def test_needs_no_pyplot():
    code = "import sys, shardlab.plots; print('matplotlib.pyplot' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_alt_text_is_escaped():
    figure = plots.mismatch_by_shards({'"><script>': [1.0]}, [1])
    assert "<script>" not in DisplayFormatter().format(figure)[0]["text/html"]


@pytest.mark.parametrize("how, said", [("column", "all_gather: Y_0 | Y_1"), ("row", "all_reduce: P_0 + P_1")])
def test_split_names_pieces_and_collective(how, said):
    drawn = words(plots.split(X, W, X @ W, how, 2))
    assert said in drawn and {"shard 0", "shard 1", "every shard", "W_0", "W_1"} <= set(drawn)
    assert ("X_1" in drawn) == (how == "row")
    values = [word for word in drawn if re.fullmatch(r"-?\d+\.\d\d", word)]
    shown = 2 * X.numel() if how == "column" else X.numel()
    parts = 8 if how == "column" else 16
    assert len(values) == shown + W.numel() + parts + 8
    assert {f"{value:.2f}" for value in (X @ W).flatten().tolist()} <= set(values)


def test_split_says_where_the_nonlinearity_is():
    before = words(plots.split(X, W, X @ W, "row", 2, f="gelu", when="before"))
    after = words(plots.split(X, W, X @ W, "row", 2, f="gelu", when="after"))
    assert before.count("gelu(") == 2 and "all_reduce: P_0 + P_1" in before
    assert "gelu(" not in after and "all_reduce: P_0 + P_1, then gelu" in after


def test_split_wants_to_know_how():
    with pytest.raises(ValueError, match="diagonal"):
        plots.split(X, W, X @ W, "diagonal", 2)


@pytest.mark.parametrize("place", [(0, 0), (69, 49), (33, 7)])
def test_mismatch_frames_the_largest_error(place):
    want = torch.zeros(70, 50)
    got = want.clone()
    got[place] = -2.0
    figure = plots.mismatch(got, want)
    cells = np.asarray(figure.axes[0].images[0].get_array())
    assert (cells != 0).sum() == 1 and cells.min() == -2
    frame = figure.axes[0].patches[0]
    assert cells[round(frame.get_y() + 0.5), round(frame.get_x() + 0.5)] == -2
    with pytest.raises(ValueError, match="shapes must be equal"):
        plots.mismatch(got[0], want)


def test_curves_differ_in_more_than_colour():
    many = {f"f{k}": [0.1, 0.2] for k in range(8)}
    axes = plots.mismatch_by_shards(many, [1, 2]).axes[0]
    assert len({(line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 8
    assert {line.get_color() for line in axes.lines} == set(COLOURS)
    assert {text.get_text() for text in axes.texts} == set(many), "every curve has its name beside it"
    for line, errors in zip(axes.lines, many.values(), strict=True):
        assert list(line.get_ydata()) == errors


@pytest.mark.parametrize("f, share", [(torch.relu, 0.51), (lambda x: 3 * x, 1.0), (lambda x: x + 1, 0.0)])
def test_additivity_finds_where_a_function_may_come_first(f, share):
    figure = plots.additivity(f, "f")
    assert f"0 in {share:.0%} of the square".replace("%", " %") in figure.alt
    gap = np.asarray(figure.axes[0].images[0].get_array())
    a, b = -3.0, 3.0  # the lower right corner is a = 3, b = -3
    assert math.isclose(gap[0, -1], f(torch.tensor(b)) + f(torch.tensor(a)) - f(torch.tensor(a + b)), abs_tol=1e-12)


def test_tolerances_are_drawn_dashed():
    lines = FIGURES["error by k"]().axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    assert [list(line.get_ydata()) for line in lines] == [[2e-7, 4e-7], [1e-6, 2e-6]]


def differing(one, other):
    """How many pixels differ by more than another build of the font renderer would explain."""
    one, other = pixels(one), pixels(other)
    return one.size if one.shape != other.shape else int((abs(one - other).max(axis=2) > 100).sum())


def test_pictures_of_the_prose_are_up_to_date(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    subprocess.run([sys.executable, ROOT / "pics/draw.py", tmp_path / "one"], check=True, capture_output=True)
    runpy.run_path(str(ROOT / "pics/draw.py"))["main"](tmp_path / "two")
    assert sorted(file.stem for file in (tmp_path / "one").iterdir()) == sorted(PICS)
    for name in PICS:
        drawn, again = ((tmp_path / folder / f"{name}.png").read_bytes() for folder in ("one", "two"))
        assert drawn == again, f"{name}.png: another picture each time"
        assert differing(drawn, (ROOT / "pics" / f"{name}.png").read_bytes()) < 20, f"{name}.png: run `make pics`"
        assert len(drawn) < 100_000


def test_one_changed_digit_is_another_picture():
    numbers = runpy.run_path(str(ROOT / "pics/draw.py"))["figures"]
    changed = numbers()["row_wise_parallel"]
    digit = next(text for text in changed.axes[0].texts if text.get_text() == "2.81")
    digit.set_text("2.87")
    assert differing(changed.png(), (ROOT / "pics/row_wise_parallel.png").read_bytes()) >= 20


def test_the_pictures_show_the_seed():
    said = words(runpy.run_path(str(ROOT / "pics/draw.py"))["figures"]()["matmul"])
    assert {"0.53", "0.26", "0.01", "0.71", "1.14", "2.81", "1.86", "1.50"} <= set(said)
