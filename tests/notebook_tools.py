"""Running and storing notebooks, for tests and for authors.

    python tests/notebook_tools.py notebooks/01_linear.ipynb    (or no path: all of them)

runs a notebook from top to bottom in a fresh kernel and stores its outputs in it, in the form that the tests expect:
without the models of widgets (which exist only while a kernel runs) and without anything that changes from run to run.
Then it lists the hash of every notebook, for `notebooks/trust.py`.
"""

import base64
import io
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.parent.name == "notebooks" and re.match(r"\d\d_", path.name)]
IGNORED = {"nbval-ignore-output", "nbval-skip"}
OURS = ROOT / "notebooks/ours.sha256"
WIDGET = "application/vnd.jupyter.widget-view+json"
EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
STILL = re.compile(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=\s]+)")


def name_of(path):
    """A notebook's path as tests print it."""
    return str(path.relative_to(ROOT / "notebooks"))


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def ignored(cell):
    """Whether CI leaves out what the cell prints (timings, widgets)."""
    return bool(IGNORED & set(cell.metadata.get("tags", [])))


def run(path, **environment):
    """Run a notebook in a kernel of this Python; the notebook with its new outputs. The file stays as it is."""
    notebook = read(path)
    manager = AsyncKernelManager(
        kernel_name=CURRENT_ENV_KERNEL_NAME, kernel_spec_manager=NbvalKernelspecManager()
    )  # this very Python, whatever kernels are installed
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=60,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.owns_km = True  # so that the kernel ends with the run
    client.execute(env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    return clean(notebook)


def clean(notebook):
    """Drop what changes from run to run, or means nothing without a kernel."""
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    glossary = not code_cells(notebook)
    for number, cell in enumerate(notebook.cells):
        cell.id = glossary and term_of(cell) or f"cell-{number:02}"
        kept = {key: cell.metadata[key] for key in ("tags", "jupyter") if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            output.get("metadata", {}).pop(WIDGET, None)
        if cell.cell_type == "code":
            cell.outputs = merged(output for output in cell.outputs if output.get("data", True))
    return notebook


def term_of(cell):
    """What a cell of the glossary explains, as links name it: `glossary.ipynb#cell-id=all-reduce`.

    (JupyterLab looks for a heading before it has drawn any, the first time that a notebook is opened, and for a cell
    when it has them all. The pages that nbconvert makes have these anchors, too.)
    """
    heading = re.match(r"## (.+)", cell.source)
    return heading and heading[1].strip().lower().replace(" ", "-")


def merged(outputs):
    """Outputs with the pieces of one stream joined: how a stream is cut into messages differs from run to run."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last["text"] += output.text
        else:
            joined.append(output)
    return joined


def opened(html):
    """HTML with its stills as what they are, `<svg>` in full."""
    return STILL.sub(lambda found: base64.b64decode(found[1]).decode(), html)


def texts(cell):
    """What a cell shows, as (kind, text), drawings in full, with embedded pixels left out."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.name, output.text
        for kind, value in output.get("data", {}).items():
            if kind not in ("image/png", "image/jpeg", WIDGET):
                yield kind, EMBEDDED.sub("PICTURE", opened(value if isinstance(value, str) else str(value)))


def pictures(cell):
    """The PNG pictures that a cell shows, each as an array of pixels."""
    from matplotlib.image import imread

    for output in cell.outputs:
        for kind, value in output.get("data", {}).items():
            found = [value] if kind == "image/png" else EMBEDDED.findall(opened(str(value)))
            for code in found:
                yield imread(io.BytesIO(base64.b64decode(code)), format="png")


def hashes():
    """The hash of every notebook as it is now, in the form of `sha256sum`."""
    return "".join(f"{sha256(path.read_bytes()).hexdigest()}  {name_of(path)}\n" for path in NOTEBOOKS)


def main(paths):
    for path in [Path(p).resolve() for p in paths] or NOTEBOOKS:
        nbformat.write(run(path), path)
        print("stored", path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    OURS.write_text(hashes(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
