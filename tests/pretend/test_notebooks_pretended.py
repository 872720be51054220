"""Every notebook and every solution on pretended GPUs: each cell runs, nothing meets on two devices, and what is shown
is what is stored, but for what `--nbval` leaves out, too. So it will be on real ones (`make cuda`)."""

import ast
import io
import re
from contextlib import redirect_stdout

import pytest
from IPython.core.formatters import DisplayFormatter

from notebook_tools import EMBEDDED, NOTEBOOKS, ROOT, code_cells, ignored, name_of, opened, read, texts
from shardlab import exercises
from shardlab.exercises.real_ranks import OnRanks

LEFT_OUT = re.findall(
    r"^regex: (.*)\nreplace: (.*)$", (ROOT / "tests/nbval-sanitize.cfg").read_text(encoding="utf-8"), re.M
)
ON_RANKS = [name for name in exercises.__all__ if isinstance(getattr(exercises, name), OnRanks)]


def can_be_pretended(cell, notebook):
    """Processes of their own, and what comes back from them, cannot: the checks that start ranks, and, in a lesson that
    starts some, all that torchrun leaves out as well."""
    if any(f"exercises.{name}.check(" in cell.source for name in ON_RANKS):
        return False
    with_ranks = any(re.search(r"shardlab\.ranks|\bpool\b", other.source) for other in code_cells(notebook))
    return not (with_ranks and {"one-process", "needs-a-person"} & set(cell.metadata.get("tags", [])))


def run(cell, names, monkeypatch):
    """What a cell shows, as (kind, text), as Jupyter shows it."""
    body = ast.parse(cell.source).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    printed, shown = io.StringIO(), {}
    monkeypatch.setattr("shardlab.labs.lab.display", lambda data, raw: shown.update(data))  # a lab shows itself so
    with redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "a cell", "exec"), names)
        if last is not None and (value := eval(compile(last, "a cell", "eval"), names)) is not None:
            shown |= {} if shows_itself(value) else DisplayFormatter().format(value)[0]
    shown = {"stdout": printed.getvalue(), **shown}
    texts = [(kind, text) for kind, text in shown.items() if isinstance(text, str) and text and "image" not in kind]
    return [(kind, EMBEDDED.sub("PICTURE", opened(text))) for kind, text in texts]


def shows_itself(value):
    """Display it, if it does that by itself."""
    own = getattr(value, "_ipython_display_", None)
    return own is not None and own() is None


def compared(shown):
    """Without what is allowed to differ."""
    for pattern, instead in LEFT_OUT:
        shown = [(kind, re.sub(pattern, instead, text)) for kind, text in shown]
    return sorted(shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook(machine, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    notebook, names = read(path), {"__name__": "__main__"}
    for cell in code_cells(notebook):
        if can_be_pretended(cell, notebook):
            shown = run(cell, names, monkeypatch)
            assert ignored(cell) or compared(shown) == compared(texts(cell)), cell.source


def test_only_these_lessons_have_cells_that_cannot_be_pretended():
    books = {name_of(path): read(path) for path in NOTEBOOKS}
    left = {
        name for name, notebook in books.items() if not all(can_be_pretended(c, notebook) for c in code_cells(notebook))
    }
    lessons = {"09_sequence.ipynb", "11_communication.ipynb", "12_when_it_pays.ipynb", "13_real_ranks.ipynb"}
    assert left == {*lessons, "solutions/13_real_ranks.ipynb"}
