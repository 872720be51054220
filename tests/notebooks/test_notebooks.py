"""The conventions of the course's notebooks. (That running them changes nothing, nbval sees, with `same_outputs`.)"""

import ast
import re
import statistics
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pytest

from notebook_tools import (
    LESSONS,
    NOTEBOOKS,
    ROOT,
    WIDGET,
    code_cells,
    ignored,
    name_of,
    prose_cells,
    read,
)
from same_outputs import assert_same_to_the_eye

PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md"]
SOLUTIONS = [path for path in NOTEBOOKS if path.parent.name == "solutions"]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=name_of)


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def tree(cell):
    """The cell's syntax tree, without IPython's own % and ! lines."""
    return ast.parse("\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!"))))


def test_there_are_notebooks():
    assert LESSONS and SOLUTIONS


@each_notebook
def test_is_stored_as_run(path):
    """Every cell was run, in order, from the top, without an error, and nothing in it needs a kernel to be read."""
    notebook = read(path)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), f"run and store: python tests/notebook_tools.py {path}"
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert not [o for o in outputs if WIDGET in o.get("data", {})], (
        "a stored widget shows as 'Error displaying widget' until it is run: store with tests/notebook_tools.py"
    )
    assert "widgets" not in notebook.metadata
    assert not [o.text for o in outputs if o.get("name") == "stderr"], "a warning in the page: mend it or catch it"


@each_notebook
def test_cells_are_short(path):
    cells = code_cells(read(path))
    too_long = [cell.source for cell in cells if len(lines(cell)) > 12]
    assert not too_long, "more than 12 lines: move code into the package or into two cells"
    assert not [cell.source for cell in cells if not lines(cell)], "an empty cell"
    if cells:
        assert statistics.median(len(lines(cell)) for cell in cells) <= 5


@each_notebook
def test_prose_and_code_take_turns(path):
    kinds = "".join(cell.cell_type[0] for cell in read(path).cells)
    assert "ccc" not in kinds, f"three code cells in a row: {kinds}"


@each_notebook
def test_no_plotting_code(path):
    plotting = [cell.source for cell in code_cells(read(path)) if re.search(r"\bplt\b|matplotlib|pyplot", cell.source)]
    assert not plotting, "one call to shardlab.plots or a lab instead"


@each_notebook
def test_most_outputs_are_compared(path):
    cells = code_cells(read(path))
    assert 4 * sum(map(ignored, cells)) <= len(cells), "more than a quarter of the cells is not compared"


@each_lesson
def test_lesson_asks_predicts_and_checks(path):
    notebook = read(path)
    title = notebook.cells[0].source.splitlines()[0]
    assert title.startswith("# ") and title.rstrip().endswith("?"), f"the title is a question: {title!r}"
    assert sum(cell.source.startswith("# ") for cell in prose_cells(notebook)) == 1, "one title"
    sources = "\n".join(cell.source for cell in notebook.cells)
    assert re.search(r"\bpredict", sources, re.I), "no prediction"
    assert re.search(r"take along|to take with you|takeaway", sources, re.I), "no box of what to take along"
    claims = [node for cell in code_cells(notebook) for node in ast.walk(tree(cell)) if is_assertion(node)]
    assert claims, "no claim of this lesson is asserted"
    assert checks(notebook), "no exercise with a check"


@each_lesson
def test_a_lab_follows_the_prediction_and_the_answer_is_folded(path):
    """A lesson asks its own question, then moves a first slider; 'Run All' ends on a question, not on the answers."""
    cells = [cell.source for cell in code_cells(read(path))]
    asks = next(index for index, source in enumerate(cells) if f'labs.predict("{path.name[:2]}")' in source)
    assert re.fullmatch(r"labs\.\w+\(.*\)", cells[asks + 1]), "no lab right after the prediction"
    last = read(path).cells[-1].source
    question, _, box = last.partition("## Take along")[2].partition("<details>")
    assert "?" in question and "(#Predict)" in question and len(box) > len(question)


def is_assertion(node):
    """Whether a node is `assert …` or a call such as `torch.testing.assert_close(…)`."""
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return isinstance(node, ast.Assert) or called.rpartition(".")[2].startswith("assert_")


def checks(notebook):
    """The exercises that are checked, by name."""
    return set(re.findall(r"\b(\w+)\.check\(", "\n".join(cell.source for cell in code_cells(notebook))))


@each_lesson
def test_solution_has_the_same_checks(path):
    solution = path.parent / "solutions" / path.name
    assert solution.exists(), "a lesson has a solution notebook of the same name"
    assert checks(read(path)) <= checks(read(solution))
    assert any(f"solutions/{path.name}" in cell.source for cell in prose_cells(read(path))), "link the solution"


@each_lesson
def test_readme_lists_the_lesson(path):
    """The README's table has the lesson under its number, with its title and a link to it."""
    title = read(path).cells[0].source.splitlines()[0].removeprefix("# ").strip()
    assert f"| [{path.name[:2]}](notebooks/{path.name}) | {title} |" in (ROOT / "README.md").read_text()


class Page(HTMLParser):
    """What one piece of HTML links to, shows and names."""

    def __init__(self):
        super().__init__()
        self.links, self.ids, self.images, self.drawings = [], set(), [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "img":
            self.links.append(attributes.get("src") or "")
            self.images.append(attributes.get("alt") or "")
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            self.drawings.append(attributes.get("role") == "img" and attributes.get("aria-label") or "")


def page_of(text):
    page = Page()
    page.feed(text)
    return page


def without_code(markdown):
    return re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.S)


def links_of(markdown):
    markdown = without_code(markdown)
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", markdown) + re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", markdown, re.M)
    return found + page_of(markdown).links


def anchors_of(path, own):
    """Every anchor of a notebook or Markdown file: its headings, as JupyterLab and GitHub name them, and its ids; from
    another notebook, its cells alone, since JupyterLab has drawn no heading yet when it opens one and goes there."""
    cells = read(path).cells if path.suffix == ".ipynb" else []
    anchors = {f"cell-id={cell.id}" for cell in cells}
    if cells and not own:
        return anchors
    for text in [cell.source for cell in cells if cell.cell_type == "markdown"] or [path.read_text()]:
        anchors |= page_of(text).ids
        for heading in re.findall(r"^#+\s+(.*?)\s*$", re.sub(r"```.*?```", "", text, flags=re.S), re.M):
            plain = re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            anchors |= {plain.replace(" ", "-"), re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")}
    return anchors


def broken(path, links):
    for link in links:
        if re.match(r"https?:|mailto:|data:|attachment:", link):
            continue
        target, _, anchor = urllib.parse.unquote(link).partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists():
            yield f"{link}: no such file"
        elif not file.is_relative_to(ROOT):
            yield f"{link}: outside the repository"
        elif anchor and anchor not in anchors_of(file, own=file == path):
            yield f"{link}: no such place in {file.name}"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path):
    prose = [cell.source for cell in prose_cells(read(path))] if path.suffix == ".ipynb" else [path.read_text()]
    assert not [problem for text in prose for problem in broken(path, links_of(text))]


@each_notebook
def test_every_picture_has_words(path):
    """A reader who does not see a picture hears what it shows."""
    notebook = read(path)
    words = []
    for cell in prose_cells(notebook):
        text = without_code(cell.source)
        words += re.findall(r"!\[([^\]]*)\]", text) + page_of(text).images + page_of(text).drawings
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            if "text/html" in data:
                shown = page_of(data["text/html"])
                words += shown.images + shown.drawings
            elif any(kind.startswith("image/") for kind in data):
                words.append("")  # JupyterLab shows it as an <img> without alt text
    assert not [text for text in words if len(text.strip()) < 10]


class Cleaned(Page):
    """A page as a strict host, such as GitHub, leaves it: without `<style>`, and of the other tags with these alone."""

    KEPT = {"p", "b", "i", "strong", "em", "code", "pre", "br", "ul", "li", "a", "img", "div", "span", "details",
            "summary", "table", "caption", "thead", "tbody", "tr", "th", "td"}  # fmt: skip

    def __init__(self):
        super().__init__()
        self.lost = set()

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        self.lost |= {tag} - self.KEPT - {"style"}


@each_notebook
def test_pictures_survive_where_html_is_cleaned(path):
    """No output needs a tag that a host may take away; each picture is an `<img>` that brings its own pixels."""
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            data = output.get("data", {})
            assert not [kind for kind in data if kind.startswith(("image/", "application/"))], cell.source
            page = Cleaned()
            page.feed(data.get("text/html", ""))
            assert page.lost == set(), cell.source
            assert all(re.match(r"data:image/(svg\+xml|png);base64,", link) for link in page.links), cell.source
            assert "text/html" not in data or not re.match(r"<[\w.]+ object", data["text/plain"]), cell.source


def test_the_eye_sees_a_moved_line():
    page = np.ones((100, 300, 4), dtype=np.float32)
    line, moved = page.copy(), page.copy()
    line[40:43], moved[60:63] = 0, 0
    assert_same_to_the_eye([line], [line * 0.999])
    with pytest.raises(AssertionError):
        assert_same_to_the_eye([line], [moved])
