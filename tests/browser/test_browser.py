"""JupyterLab in headless Chromium: a lesson opens, runs, and its slider answers the keyboard, in light and dark."""

import re
import statistics
from html import unescape

import pytest

lab_browser = pytest.importorskip(
    "lab_browser", reason="needs playwright: pip install -e '.[test]'", exc_type=ImportError
)

import nbformat  # noqa: E402
import psutil  # noqa: E402

import forked  # noqa: E402
from notebook_tools import LESSONS, NOTEBOOKS, ROOT, code_cells, read  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(lab_browser.find_chromium() is None, reason=lab_browser.NO_CHROMIUM),
]

# What axe-core finds that is not ours: (rule, a part of the element's opening tag, why we accept it).
KNOWN = [
    ("aria-input-field-name", "cm-content", "JupyterLab: the editor of a code cell has no name"),
    ("aria-required-children", "jp-WindowedPanel-viewport", "JupyterLab: its feed of cells holds no articles"),
    (
        "scrollable-region-focusable",
        "cm-scroller",
        "JupyterLab: a long line scrolls in the editor, which has the focus",
    ),
]


def lesson(number):
    found = [path for path in LESSONS if path.name.startswith(number)]
    if not found:
        pytest.skip(f"there is no lesson {number}")
    return found[0].relative_to(ROOT)


def write(cells, path):
    """A notebook of these cells, with the kernel that ours have."""
    notebook = read(NOTEBOOKS[0])
    notebook.cells = cells
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab():
    with lab_browser.Lab(kernel=forked.python("-m", "ipykernel_launcher", "-f", "{connection_file}")) as lab:
        yield lab
        family = psutil.Process(lab.server.pid).children(recursive=True)
    assert family and not [process for process in family if process.is_running()], "left running"


@pytest.fixture(scope="module")
def opened(lab):
    """Lesson 01 with all its cells run."""
    with lab.page() as page:
        page.open(lesson("01"))
        page.run_all()
        yield page


@pytest.fixture(scope="module")
def another(lab):
    """A page for whatever comes."""
    with lab.page() as page:
        yield page


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def page(opened, request):
    """The same page in one of the two themes: drawings read in both without being drawn again."""
    opened.theme(dark=request.param)
    return opened


def test_lesson_runs(opened):
    assert opened.errors() == []
    assert opened.problems == []


def test_an_error_is_seen(lab, another):
    """What the lessons' pages are without: a cell that fails, and a program in the page that does."""
    write([nbformat.v4.new_code_cell("1 / 0")], lab.root / "fails.ipynb")
    another.open("fails.ipynb")
    assert another.errors() == another.problems == []
    another.run_all()
    assert another.errors() == ["ZeroDivisionError: division by zero"]
    another.page.evaluate("new Promise(done => setTimeout(() => { setTimeout(done); throw Error('lost'); }))")
    assert another.problems == ["lost"]


def test_slider_moves_the_picture(page, record_property):
    slider = page.sliders()[0]
    before = page.picture(slider)
    times = [page.press(slider, key) for key in ("ArrowRight", "ArrowLeft") * 4]
    assert None not in times, "a key press did not change the picture"
    assert page.picture(slider) == before, "the same value gives the same picture"
    record_property("median from key to picture", f"{statistics.median(times):.0f} ms")


def test_burst_leaves_no_backlog(page, record_property):
    slider = page.sliders()[0]
    page.press(slider, "Home")
    alone = [page.press(slider) and page.picture(slider) for _ in range(10)][-1]
    page.press(slider, "Home")
    burst = page.burst(slider, times=10)
    assert page.picture(slider) == alone, "after ten quick presses the picture is that of ten slow ones"
    assert burst["last"] < 2000, "the picture keeps changing long after the last key"
    record_property("from the last of ten quick keys to the last picture", f"{burst['last']:.0f} ms")


def test_no_accessibility_violations_of_ours(page):
    assert page.axe(known=KNOWN) == []


BESIDE = """handle => ['.widget-label', '.widget-readout'].map(
  part => handle.closest('.widget-slider').querySelector(part).textContent)"""


@pytest.mark.parametrize("number", [path.name[:2] for path in LESSONS if not path.name.startswith("01")])
def test_every_lab_answers_the_keyboard(lab, another, number, record_property):
    """The other lessons' labs: each slider moves its picture, and a reader without eyes or mouse gets along. (That
    their other cells run is seen elsewhere, and takes minutes.)"""
    cells = read(ROOT / lesson(number)).cells
    kept = [cell for cell in cells if cell.cell_type == "markdown" or "needs-a-person" in cell.metadata.get("tags", [])]
    write(kept, lab.root / f"labs_of_{number}.ipynb")
    another.open(f"labs_of_{number}.ipynb")
    another.run_all()
    assert another.errors() == [] and another.problems == []
    for index, slider in enumerate(another.sliders()):
        now, most = (slider.get_attribute(f"aria-value{end}") for end in ("now", "max"))
        keys = ("ArrowLeft", "ArrowRight") if now == most else ("ArrowRight", "ArrowLeft")
        times = [another.press(slider, key) for key in keys]
        assert None not in times, f"slider {index}: a key press did not change the picture"
        record_property(f"lesson {number}, slider {index}: there and back", " and ".join(f"{t:.0f} ms" for t in times))
        beside = slider.evaluate(BESIDE)
        assert [slider.get_attribute("aria-label"), slider.get_attribute("aria-valuetext")] == beside
    assert another.axe(known=KNOWN) == []


STILLS = """[...document.querySelectorAll('.jp-OutputArea-output img')]
  .map(img => ({alt: img.alt, drawn: img.complete && img.naturalWidth > 0, wide: img.clientWidth}))"""


def test_every_picture_is_there_in_notebooks_that_are_not_trusted(lab, another):
    """All notebooks as one, which nobody has signed."""
    cells = [cell for path in NOTEBOOKS for cell in code_cells(read(path)) if cell.outputs]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    write(cells, lab.root / "stranger.ipynb")
    shown = "".join(output.get("data", {}).get("text/html", "") for cell in cells for output in cell.outputs)
    alts = [unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"', shown)]
    another.open("stranger.ipynb")
    assert not another.page.evaluate("[...jupyterapp.shell.currentWidget.content.model.cells].some(c => c.trusted)")
    found = another.page.evaluate(STILLS)
    assert [picture["alt"] for picture in found] == alts and len(alts) > 20
    assert [picture for picture in found if not picture["drawn"] or picture["wide"] < 40] == []
    assert another.page.locator(".jp-OutputArea-output svg").count() == 0


def test_a_picture_stays_where_a_widget_was(lab, another):
    """Run, saved, and opened again without the kernel that knew the widget."""
    cells = map(nbformat.v4.new_code_cell, ["from shardlab import labs", "labs.devices()"])
    write([*cells], lab.root / "saved.ipynb")
    still = ".jp-OutputArea-output img[alt^='4 shards']"
    another.open("saved.ipynb")
    another.run_all()
    assert len(another.sliders()) == 1 and not another.page.is_visible(still)
    another.command("docmanager:save")
    another.command("kernelmenu:shutdown")
    another.open("saved.ipynb")
    another.page.wait_for_selector("text=model not found", state="attached")
    assert another.page.is_visible(still) and not another.page.is_visible("text=model not found")


IN_SIGHT = """() => {
  const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer');
  const places = [...panel.querySelectorAll('h2')].map(h => [h.innerText, h.getBoundingClientRect()]);
  const {top, bottom} = panel.getBoundingClientRect();
  return places.filter(([, h]) => h.top >= top && h.bottom <= bottom).map(([word]) => word.replace('¶', ''));
}"""
WINDOWING = "jupyterapp.shell.currentWidget.content.notebookConfig.windowingMode"


def test_where_only_the_cells_in_sight_are_drawn(lab):
    """As JupyterLab does, unless told otherwise: the slider works there too, and a link to a word of the glossary leads
    to it, also the first time."""
    with lab.page(windowing=None) as page:
        page.open(lesson("01"))
        assert page.page.evaluate(WINDOWING) != "none"
        page.run_all()
        assert any(page.press(page.find_slider()) for _ in range(3))  # one that comes in sight may miss a key
    with lab.page(windowing=None) as page:
        page.open(lesson("00"))
        page.page.locator(".jp-Notebook a[href*='cell-id=rank']").click()
        page.page.wait_for_function(f"({IN_SIGHT})()[0] == 'rank'")
