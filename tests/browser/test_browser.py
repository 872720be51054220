"""JupyterLab in headless Chromium: a lesson opens, runs, and its slider answers the keyboard, in light and dark."""

import statistics

import pytest

lab_browser = pytest.importorskip(
    "lab_browser", reason="needs playwright: pip install -e '.[test]'", exc_type=ImportError
)

import nbformat  # noqa: E402
import psutil  # noqa: E402

import forked  # noqa: E402
from notebook_tools import LESSONS, ROOT, read  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(lab_browser.find_chromium() is None, reason=lab_browser.NO_CHROMIUM),
]

# What axe-core finds that is not ours: (rule, a part of the element's opening tag, why we accept it).
KNOWN = [
    ("aria-input-field-name", "noUi-handle", "ipywidgets: a slider's handle has no name; its label stands beside it"),
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
    notebook = read(ROOT / lesson("01"))
    notebook.cells = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(notebook, lab.root / "fails.ipynb")
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


@pytest.mark.parametrize("number", [path.name[:2] for path in LESSONS if not path.name.startswith("01")])
def test_every_lab_answers_the_keyboard(another, number, record_property):
    """The other lessons: they run, each slider moves its picture, and a reader without eyes or mouse gets along."""
    another.open(lesson(number))
    another.run_all()
    assert another.errors() == [] and another.problems == []
    for index, slider in enumerate(another.sliders()):
        times = [another.press(slider, key) for key in ("ArrowRight", "ArrowLeft") * 2]
        assert None not in times, f"slider {index}: a key press did not change the picture"
        record_property(f"lesson {number}, slider {index}: median", f"{statistics.median(times):.0f} ms")
    assert another.axe(known=KNOWN) == []


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
        page.open(lesson("00"))
        assert page.page.evaluate(WINDOWING) != "none"
        page.page.locator(".jp-Notebook a[href*='cell-id=rank']").click()
        page.page.wait_for_function(f"({IN_SIGHT})()[0] == 'rank'")
        page.open(lesson("01"))
        page.run_all()
        assert page.press(page.find_slider()) is not None
