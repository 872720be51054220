"""The first minute: from `make lab` to a slider that moves a picture, as someone new to it gets there."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

lab_browser = pytest.importorskip(
    "lab_browser", reason="needs playwright: pip install -e '.[test]'", exc_type=ImportError
)

import psutil  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from notebook_tools import LESSONS, ROOT, prose_cells, read  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(lab_browser.find_chromium() is None, reason=lab_browser.NO_CHROMIUM),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where JupyterLab answers after `make lab` in a copy of the course, for a reader who never started it before."""
    tmp_path = tmp_path_factory.mktemp("newcomer")
    course, home = tmp_path / "course", tmp_path / "home"
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        course.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, course / name)
    for folder in ("notebooks", "pics"):
        shutil.copytree(ROOT / folder, course / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    python = course / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (course / ".venv/.lab").touch()

    token, port = secrets.token_hex(16), lab_browser.free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON", "MAKE"))}
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    args = f"--no-browser --expose-app-in-browser --ServerApp.port={port} --ServerApp.port_retries=0"
    command = ["make", "lab", f"ARGS={args} --IdentityProvider.token={token}"]
    env = kept | folders | {"IPYTHONDIR": str(home / "ipython"), "HOME": str(home)}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=course, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, tmp_path / "log")
        yield f"http://127.0.0.1:{port}/?token={token}"
    finally:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        for process in psutil.wait_procs(family, timeout=15)[1]:
            process.kill()
        server.wait(10)


def wait_for(url, server, log):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        with contextlib.suppress(OSError), direct.open(url, timeout=10):
            return
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def page(address):
    """The browser as it comes up, on a laptop's screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=lab_browser.find_chromium(), args=lab_browser.CHROMIUM_FLAGS
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.isReady")
        idle = "jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel?.status == 'idle'"
        page.wait_for_function(idle)
        try:
            yield page
        finally:
            browser.close()


def test_the_page_says_where_to_begin(page):
    """The start page is open; the list has the lessons, by their whole names, and no answers; nothing else is asked."""
    assert page.evaluate("jupyterapp.shell.currentWidget.context.path") == "notebooks/start.ipynb"
    assert page.get_by_role("heading", name="Where do I begin?").is_visible()
    names = page.locator(".jp-DirListing-itemText")
    names.first.wait_for()
    shown = [name.strip() for name in names.all_inner_texts()]
    assert shown == [*(path.name for path in LESSONS), "glossary.ipynb", "start.ipynb"]
    cut = "e => [e, ...e.querySelectorAll('*')].some(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)"
    assert not [name.inner_text() for name in names.all() if name.evaluate(cut)]


def test_two_clicks_on_one_screen_lead_to_the_first_slider(page, record_property):
    cell = page.locator(".jp-NotebookPanel .jp-CodeCell .cm-content").first
    cell.click()  # once
    begun = time.monotonic()
    page.keyboard.press("Shift+Enter")
    handle = page.locator(".noUi-handle:visible")
    handle.wait_for()
    record_property("from Shift+Enter to the first slider", f"{time.monotonic() - begun:.1f} s")
    page.wait_for_timeout(500)
    assert handle.count() == 1, "a first lab has one slider"

    page.evaluate(lab_browser.PICTURE + "null")
    before = handle.evaluate("h => pictureOf(h)")
    drawing = page.locator(".jp-OutputArea-output .widget-html svg:visible, .widget-html img:visible").first
    for part in (handle, drawing):
        box = part.bounding_box()
        assert box["y"] > 0 and box["y"] + min(box["height"], 100) < 800, "slider and picture are on the first screen"
    handle.click()  # twice
    page.keyboard.press("ArrowRight")
    page.wait_for_function("b => pictureOf(document.querySelector('.noUi-handle')) != b", arg=before)
    assert page.locator(".jp-NotebookPanel .jp-WindowedPanel-outer").evaluate("e => e.scrollTop") == 0
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0, "no news, no questions"


def test_the_start_page_links_every_lesson():
    """Its table has each lesson, in order, with its title."""
    table = "\n".join(cell.source for cell in prose_cells(read(ROOT / "notebooks/start.ipynb")))
    places = [table.index(f"[{title(path)}]({path.name})") for path in LESSONS]
    assert places == sorted(places)


def title(path):
    return read(path).cells[0].source.splitlines()[0].removeprefix("# ").strip()
