"""The figures for a cell: they show themselves with words, the same each time; and the pictures of the prose."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from torch.nn.functional import gelu

from notebook_tools import opened
from shardlab import plots

ROOT = Path(__file__).resolve().parent.parent
PICS = ("matmul", "column_wise_parallel", "row_wise_parallel")
X, W = torch.arange(8.0).reshape(2, 4) / 4 - 1, torch.arange(16.0).reshape(4, 4) / 8 - 1
ERRORS = {"gelu": [0.0, 0.37, 0.45], "relu": [0.0, 0.43, 0.72], "identity": [0.0, 2.6e-7, 2.5e-7]}
SIZES = [2**10, 2**15, 2**20]
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
    "line of times": lambda: plots.line_of_times(SIZES, [1e-3, 1e-3, 2e-3], {"a": (1e-3, 0), "b": (0, 1e-8)}, "Times"),
    "error by k alone": lambda: plots.error_by_k({"float32": [2e-7, 4e-7]}, [64, 1024]),
}


def words(figure):
    return re.findall(r"<text[^>]*>([^<]*)</text>", figure.data)


@pytest.mark.parametrize("name", FIGURES)
def test_shows_itself_in_a_cell(name):
    figure = FIGURES[name]()
    shown, _ = DisplayFormatter().format(figure)
    assert set(shown) == {"text/html", "text/plain"}
    assert len(shown["text/plain"]) > 30 and "\n" not in shown["text/plain"]
    assert re.fullmatch(
        r'<img alt="[^"]{30,}" width="[\d.]+" [^>]*src="data:image/svg\+xml;base64,[^"]+">', shown["text/html"]
    )


@pytest.mark.parametrize("name", FIGURES)
def test_is_the_same_each_time(name):
    assert FIGURES[name]().data == FIGURES[name]().data


def test_leaves_pyplot_alone():
    code = "import sys, shardlab.plots; print('matplotlib.pyplot' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_alt_text_is_escaped():
    figure = plots.mismatch_by_shards({'"><script>': [1.0]}, [1])
    shown = DisplayFormatter().format(figure)[0]["text/html"]
    assert "<script>" not in shown and "<script>" not in opened(shown)


@pytest.mark.parametrize("how", ["column", "row"])
def test_split_shows_every_value(how):
    values = [word for word in words(plots.split(X, W, X @ W, how, 2)) if re.fullmatch(r"-?\d+(\.\d+)?", word)]
    parts = 8 if how == "column" else 16
    assert len(values) == 2 + X.numel() + W.numel() + parts + 8  # the first two name the shards


def test_mismatch_wants_equal_shapes():
    with pytest.raises(ValueError, match="shapes must be equal"):
        plots.mismatch(X[0], X)


@pytest.mark.parametrize("f, share", [(torch.relu, 0.51), (lambda x: 3 * x, 1.0), (lambda x: x + 1, 0.0)])
def test_additivity_finds_where_a_function_may_come_first(f, share):
    assert f"0 in {share:.0%} of the square".replace("%", " %") in repr(plots.additivity(f, "f"))


def test_additivity_has_b_upwards():
    """a + b is large in the upper right corner: there alone it passes 4."""
    (image,) = plots.additivity(lambda x: (x > 4).double(), "f").axes[0].images
    heights = image.get_array()
    assert image.origin == "lower" and heights[-1][-1] < 0 == heights[0][0]


def test_times_have_their_lines_and_below_what_these_are_off():
    figure = FIGURES["line of times"]()
    upper, lower = figure.axes
    dots, a, b = (line.get_ydata() for line in upper.lines)
    assert [*dots] == [1e-3, 1e-3, 2e-3] and [*a] == [1e-3] * 3 and [*b] == [1e-8 * size for size in SIZES]
    off_a, off_b, _zero = (line.get_ydata() for line in lower.lines)
    assert [*off_a] == [0, 0, -50] and off_b[0] == pytest.approx(100 * (1e-8 * 2**10 / 1e-3 - 1))
    assert figure.alt.startswith(
        "Times, 1 KiB to 1 MiB: 1 ms to 2 ms. a: alpha 1 ms, off by -50 % to +0 %. b: alpha 0 µs"
    )
    assert {"1 KiB", "1 MiB", "measured", "a", "b"} <= set(words(figure))


def test_tolerances_are_drawn_dashed():
    figure = FIGURES["error by k"]()
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--"]
    assert "tolerance, float32" in words(figure)


@pytest.mark.parametrize("name", ["mismatch by shards", "additivity", "error by k", "line of times"])
def test_curves_are_in_the_colours_of_the_page(name):
    """Whatever the reader has set; black is the ink of no page alone."""
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9, "text.color": "red"}):
        drawing = FIGURES[name]().data
    assert drawing == FIGURES[name]().data and "currentColor" in drawing
    assert not re.search(r"#000000|#ffffff|#ff0000|\bblack\b", drawing)


def test_pictures_of_the_prose_are_up_to_date(tmp_path):
    runpy.run_path(str(ROOT / "pics/draw.py"))["main"](tmp_path)
    assert sorted(file.stem for file in tmp_path.iterdir()) == sorted(PICS)
    for name in PICS:
        drawn, stored = ((folder / f"{name}.svg").read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "pics"))
        assert drawn == stored, f"{name}.svg: run `make pics`"


def test_the_pictures_show_the_seed():
    said = words(runpy.run_path(str(ROOT / "pics/draw.py"))["figures"]()["matmul"])
    assert {"0.53", "0.26", "0.01", "0.71", "1.14", "2.81", "1.86", "1.50"} <= set(said)
