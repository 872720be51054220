"""JupyterLab in headless Chromium, for the tests and for screenshots.

    python tests/browser/lab_browser.py notebooks/01_linear_layer.ipynb --out shots --dark

opens a copy of the notebook, runs all its cells and saves screenshots from top to bottom. Everything listens on
127.0.0.1, works on a copy of the repository's notebooks and pictures, and is gone when the `with` block ends:

    with Lab() as lab, lab.page(dark=True) as page:
        page.open("notebooks/01_linear.ipynb")
        page.run_all()
        slider = page.sliders()[0]
        print(page.press(slider, "ArrowRight"))  # milliseconds from the key to the changed picture
"""

import argparse
import contextlib
import functools
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NO_CHROMIUM = (
    "no Chromium found: install it (Debian: `sudo apt-get install chromium`; elsewhere Chrome or Chromium from its own "
    "installer) or name the program in the environment variable CHROMIUM"
)
THEMES = {False: "JupyterLab Light", True: "JupyterLab Dark"}


def find_chromium():
    """The path of a Chromium or Chrome on this machine, or None."""
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Lab:
    """A JupyterLab server on 127.0.0.1 over a copy of `notebooks/` and `pics/`, with a configuration of its own, and
    one browser. Another command may start its kernels (`kernel`)."""

    def __init__(self, root=ROOT, kernel=None):
        self.source, self.kernel = Path(root), kernel

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *exc):
        self.stack.close()

    def _start(self):
        home = Path(self.stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.home, self.root = home, home / "course"
        for folder in ("notebooks", "pics"):
            if (self.source / folder).exists():
                hidden = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
                shutil.copytree(self.source / folder, self.root / folder, ignore=hidden)
        self.settings("@jupyterlab/apputils-extension/notification", fetchNews="false", checkForUpdates=False)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON"))},
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "JUPYTER_PATH": str(home / "first"),
        }
        if self.kernel:
            spec = {"argv": self.kernel, "display_name": "Python 3 (ipykernel)", "language": "python"}
            (home / "first/kernels/python3").mkdir(parents=True)
            (home / "first/kernels/python3/kernel.json").write_text(json.dumps(spec))
        if (program := self.root / "notebooks/trust.py").exists():  # as `make lab` does
            subprocess.run([sys.executable, "-I", program], env=self.env, check=True, capture_output=True)
        self.token, self.port = secrets.token_hex(16), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": self.port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": self.root,
            "IdentityProvider.token": self.token,
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.news_url": "",
            "LabApp.app_settings_dir": self.root / "notebooks/.lab",
            "LabApp.extension_manager": "readonly",
        }
        command += [f"--{name}={value}" for name, value in options.items()]
        with open(home / "server.log", "w") as log:
            self.server = subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT, cwd=self.root)
        self.stack.callback(self._stop)
        deadline = time.monotonic() + 60
        while not self._ask("/api/status"):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("JupyterLab did not start:\n" + (home / "server.log").read_text())
            time.sleep(0.1)

    def settings(self, plugin, **values):
        """Write user settings of one JupyterLab plugin, as its settings editor would."""
        path = self.home / "config/lab/user-settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def _ask(self, path, method="GET"):
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
        with contextlib.suppress(OSError), direct.open(request, timeout=10) as answer:
            return answer.read() or b" "

    def _stop(self):
        family = [psutil.Process(self.server.pid)] if self.server.poll() is None else []
        family += family[0].children(recursive=True) if family else []
        self._ask("/api/shutdown", "POST")
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        self.server.wait(10)

    @contextlib.contextmanager
    def page(self, dark=False, width=1280, height=1000, windowing="none"):
        """A tab of the browser; see `Page`. JupyterLab itself draws only the cells in sight (`windowing=None`)."""
        self.settings("@jupyterlab/apputils-extension/themes", theme=THEMES[dark])
        drawn = {"windowingMode": windowing} if windowing else {}
        self.settings("@jupyterlab/notebook-extension/tracker", **drawn)
        tab = self.browser.new_page()
        tab.set_viewport_size({"width": width, "height": height})
        try:
            yield Page(self, tab)
        finally:
            tab.close()

    @functools.cached_property
    def browser(self):
        """One for all pages: what the first has loaded, the next ones find."""
        if not (chromium := find_chromium()):
            raise RuntimeError(NO_CHROMIUM)
        playwright = self.stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        self.stack.callback(browser.close)
        return browser.new_context()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


ERRORS = """[...jupyterapp.shell.currentWidget.content.model.cells]
  .flatMap(cell => cell.type == 'code' ? cell.outputs.toJSON() : [])
  .filter(output => output.output_type == 'error').map(output =>
    `${output.ename}: ${output.evalue || output.traceback.join('\\n').replace(/\\x1b\\[[0-9;]*m/g, '')}`)"""
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer"
SCROLL = "(e, o) => { const t = e.scrollTop; e.scrollBy(0, e.clientHeight - o); return e.scrollTop > t; }"

# What a slider's picture looks like now: every drawing in its output, without the controls themselves.
PICTURE = """
window.pictureOf = handle => {
  const root = handle.closest('.jp-OutputArea-output') || handle.closest('.jp-Cell');
  const drawings = [...root.querySelectorAll('svg, img, canvas, table, pre')];
  return drawings.filter(e => !e.closest('.widget-slider') && !e.parentElement.closest('svg'))
    .map(e => e.tagName == 'CANVAS' ? e.toDataURL() : e.tagName == 'IMG' ? e.src : e.outerHTML).join('\\n');
};
window.watchPicture = handle => {
  const root = handle.closest('.jp-OutputArea-output') || handle.closest('.jp-Cell');
  const w = window.watched = {before: pictureOf(handle), key: null, keys: 0, changes: 0, first: null, last: null};
  document.addEventListener('keydown', () => { w.key = performance.now(); w.keys++; w.first = null; }, true);
  let seen = w.before;
  w.observer = new MutationObserver(() => {
    const now = pictureOf(handle);
    if (now == seen) return;
    seen = now; w.changes++;
    requestAnimationFrame(() => { w.last = performance.now(); if (w.first === null) w.first = w.last; });
  });
  w.observer.observe(root, {subtree: true, childList: true, attributes: true, characterData: true});
};
"""


class Page:
    """One browser tab with JupyterLab in it. `self.page` is Playwright's own page, for everything not named here."""

    def __init__(self, lab, page):
        self.lab, self.page = lab, page
        self.problems = []  # what the browser's console complained about
        page.on("console", lambda m: m.type == "error" and self.problems.append(m.text))
        page.on("pageerror", lambda e: self.problems.append(str(e)))
        page.set_default_timeout(30_000)

    def open(self, notebook):
        """Open one notebook (a path from the repository's root), in place of another, and wait until its kernel is
        ready."""
        self.page.bring_to_front()  # what lies behind another page is drawn late
        if self.page.url == "about:blank":
            self.page.goto(f"{self.lab.url}/lab/tree/{notebook}?token={self.lab.token}&reset")
        else:
            self.command("docmanager:save")
            self.command("application:close-all")
            self.problems.clear()
            self.command("docmanager:open", path=str(notebook))
        self.page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")
        self.page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.isReady")
        self.page.evaluate("jupyterapp.commands.execute('application:set-mode', {mode: 'single-document'})")
        self.page.evaluate("jupyterapp.shell.collapseLeft(); jupyterapp.shell.collapseRight()")
        self.page.evaluate(PICTURE + "null")
        self.wait_idle()

    def command(self, name, **arguments):
        """Run one of JupyterLab's commands and wait for it."""
        self.page.evaluate("([n, a]) => jupyterapp.commands.execute(n, a).then(() => null)", [name, arguments])

    def run_all(self, timeout=120):
        self.page.set_default_timeout(timeout * 1000)
        self.command("notebook:run-all-cells")
        self.wait_idle(timeout)
        self.page.set_default_timeout(30_000)

    def wait_idle(self, timeout=60):
        """Wait until the kernel is idle and every widget is drawn."""
        idle = "jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel?.status == 'idle'"
        self.page.wait_for_function(idle, timeout=timeout * 1000)
        self.page.wait_for_function("!document.body.innerText.includes('Loading widget...')")
        self.page.wait_for_timeout(300)

    def theme(self, dark):
        """Switch to JupyterLab's dark theme or back to the light one."""
        self.command("apputils:change-theme", theme=THEMES[dark])
        want = "false" if dark else "true"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{want}"]', state="attached")
        self.page.wait_for_timeout(300)

    def errors(self):
        """The error of every cell that ended in one, whether it is in sight or not."""
        return self.page.evaluate(ERRORS)

    def sliders(self):
        """The handles of all sliders in sight of a reader, top to bottom (Playwright locators)."""
        return self.page.locator(".jp-OutputArea .noUi-handle:visible").all()

    def find_slider(self):
        """Scroll down until there is a slider (JupyterLab may draw only the cells in sight), and return it."""
        outer = self.page.locator(PANEL).first
        outer.evaluate("e => e.scrollTo(0, 0)")
        while not self.sliders():
            if not outer.evaluate(SCROLL, 200):
                raise LookupError("no slider in this notebook")
            self.page.wait_for_timeout(300)
        return self.sliders()[0]

    def picture(self, slider):
        """What the slider's picture looks like now, as one string: equal strings, equal pictures."""
        return slider.evaluate("h => pictureOf(h)")

    def press(self, slider, key="ArrowRight", timeout=10):
        """Press a key on a slider; milliseconds until its picture has changed and was painted, None if it did not."""
        return self.burst(slider, key, 1, timeout, quiet=100)["first"]

    def burst(self, slider, key="ArrowRight", times=1, timeout=10, quiet=400, every=33):
        """Press a key `times` times at a keyboard's own repeat rate, and watch the picture until it is still.

        Returns `first` and `last`, the milliseconds from the last key to the first and to the last change after it
        (None where there was none), `changes`, and the final `value` of the slider.
        """
        self.page.bring_to_front()
        slider.scroll_into_view_if_needed()
        slider.focus()
        slider.evaluate("h => watchPicture(h)")
        for i in range(times):
            slider.press(key)
            if i + 1 < times:
                self.page.wait_for_timeout(every)
        still = f"""() => {{
          const w = window.watched, now = performance.now(), since = now - w.key;
          return now - Math.max(w.key, w.last ?? 0) > {quiet} && (w.last !== null || since > {timeout * 1000});
        }}"""
        with contextlib.suppress(Exception):
            self.page.wait_for_function(still, timeout=timeout * 1000, polling=20)
        w = self.page.evaluate("() => { const {observer, ...w} = window.watched; observer.disconnect(); return w; }")
        return {
            "first": None if w["first"] is None else w["first"] - w["key"],
            "last": None if w["last"] is None else w["last"] - w["key"],
            "changes": w["changes"],
            "value": slider.get_attribute("aria-valuetext"),
        }

    def axe(self, within=".jp-Notebook", known=()):
        """Accessibility problems (axe-core) inside `within`, one line each, without the `known` ones.

        `known` holds (rule, part of the element's opening tag, reason): what we accept, and why.
        """
        found = Axe().run(self.page, context=within).response["violations"]
        return [
            f"{v['id']}: {v['help']}: {node['html'][:200]} ({' '.join(map(str, node['target']))[:160]})"
            for v in found
            for node in v["nodes"]
            if not any(rule == v["id"] and part in node["html"].partition(">")[0] for rule, part, _ in known)
        ]

    def screenshot(self, path, scroll_to=None):
        """Save a picture of the window, with `scroll_to` (a CSS selector or a locator) scrolled to the top."""
        if scroll_to is not None:
            target = self.page.locator(scroll_to).first if isinstance(scroll_to, str) else scroll_to
            target.evaluate("e => e.scrollIntoView({block: 'start'})")
            self.page.wait_for_timeout(200)
        self.page.screenshot(path=path)

    def film(self, path, slider, keys):
        """Save what a slider does, from its start and over so many keys, as a GIF of its cell."""
        cell, frames = slider.locator("xpath=ancestor::*[contains(@class, 'jp-Cell ')]"), []
        cell.locator(".jp-OutputArea").evaluate("e => e.scrollIntoView({block: 'center'})")
        self.press(slider, "Home")
        for _ in range(keys + 1):
            frames.append(Image.open(io.BytesIO(cell.screenshot())).quantize(256, dither=Image.Dither.NONE))
            self.press(slider)
        pauses = [900] * keys + [2500]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=pauses, loop=0, optimize=True)

    def screenshots(self, folder, name, overlap=60):
        """Save the whole notebook, top to bottom, as `name-00.png`, `name-01.png`, …; returns the paths."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        outer = self.page.locator(PANEL).first
        outer.evaluate("e => e.scrollTo(0, 0)")
        paths = []
        while True:
            self.page.wait_for_timeout(300)
            paths.append(Path(folder) / f"{name}-{len(paths):02}.png")
            outer.screenshot(path=paths[-1])
            if not outer.evaluate(SCROLL, overlap):
                return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="+", help="paths from the repository's root")
    parser.add_argument("--root", type=Path, default=ROOT, help="another folder with notebooks/ and pics/")
    parser.add_argument("--out", default="shots", help="folder for the pictures")
    parser.add_argument("--dark", action="store_true", help="JupyterLab's dark theme")
    parser.add_argument("--no-run", action="store_true", help="show the stored outputs, run nothing")
    parser.add_argument("--keys", type=int, default=0, help="also press ArrowRight this often on every slider")
    parser.add_argument(
        "--film", metavar="FILE", help="also save what the first slider does over --keys keys, as a GIF"
    )
    parser.add_argument("--axe", action="store_true", help="also list accessibility problems, the known ones included")
    parser.add_argument("--windowing", default="none", help="JupyterLab's windowing mode")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1000)
    options = parser.parse_args()
    shown = options.dark, options.width, options.height, options.windowing
    with Lab(options.root) as lab, lab.page(*shown) as page:
        for notebook in options.notebooks:
            notebook = (
                Path(notebook).resolve().relative_to(options.root.resolve())
                if Path(notebook).exists()
                else Path(notebook)
            )
            page.open(notebook)
            if not options.no_run:
                page.run_all()
            if options.film:
                page.film(options.film, page.sliders()[0], options.keys)
                continue
            for number, slider in enumerate(page.sliders() if options.keys else []):
                took = [page.press(slider) for _ in range(options.keys)]
                print(f"slider {number}: ms from key to picture", [t and round(t) for t in took])
            name = notebook.stem + ("-dark" if options.dark else "")
            for path in page.screenshots(options.out, name):
                print(path)
            for violation in page.axe() if options.axe else []:
                print("axe:", violation)
            for error in page.errors():
                print("error output:", error[:2000])
        for problem in page.problems:
            print("browser console:", problem[:300])


if __name__ == "__main__":
    main()
