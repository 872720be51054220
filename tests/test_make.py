"""What `make` does, in a copy of the Makefile's folder: what it runs, and what it never runs."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from notebook_tools import NOTEBOOKS, OURS, ROOT, hashes, name_of

PROGRAM = "import pathlib; pathlib.Path('ran').touch()"
SCRIPT = {"application/javascript": "fetch('/api/contents')", "text/html": "<script>alert(1)</script>"}
FOREIGN = ["foreign", "my notes", "$(touch ran)", "`touch ran`", "a;touch ran", "a'b", 'a"b', "a\nb", "-f", "#", "é"]


def make(folder, *arguments, **environment):
    """Run make as from a terminal, also where these tests run under `make test`."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name} | environment
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def program(path, text):
    """A file that runs as a command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def copy(tmp_path):
    """The course in a folder of its own, after the first `make lab`; its Python only says how it starts JupyterLab."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    lines = f'case $2 in jupyterlab) echo "$@" ;; *) exec "{sys.executable}" "$@" ;; esac'
    program(tmp_path / ".venv/bin/python", lines)
    (tmp_path / ".venv/.lab").touch()
    return tmp_path


def with_a_script(notebook):
    """The notebook with one more cell, whose stored output would run on opening."""
    output = nbformat.v4.new_output("display_data", SCRIPT)
    notebook.cells.append(nbformat.v4.new_code_cell("1", outputs=[output]))
    return notebook


def test_make_lab_trusts_ours_and_no_other(copy):
    books = copy / "notebooks"
    for name in FOREIGN:
        nbformat.write(with_a_script(nbformat.v4.new_notebook()), books / f"{name}.ipynb")
    for name in ("hashlib", "contextlib", "nbformat"):
        (books / f"{name}.py").write_text(PROGRAM)
    (books / "empty.ipynb").touch()

    changed, emptied, merged, gone, folder, *_ = [books / name_of(path) for path in NOTEBOOKS]
    nbformat.write(with_a_script(nbformat.read(changed, 4)), changed)
    emptied.write_text("")
    merged.write_text("<<<<<<< HEAD\n" + merged.read_text())
    gone.unlink()
    folder.unlink()
    folder.mkdir()
    kept = {books / name_of(path) for path in NOTEBOOKS} - {changed, emptied, merged, gone, folder}
    windows = max(kept)  # where git may write \r\n
    windows.write_bytes(windows.read_bytes().replace(b"\n", b"\r\n"))

    data = copy / "data"
    done = make(copy, "--silent", "lab", JUPYTER_DATA_DIR=str(data), JUPYTER_CONFIG_DIR=str(copy / "config"))
    assert done.returncode == 0 and done.stdout.startswith("-m jupyterlab --ServerApp.ip=127.0.0.1 "), done.stderr
    assert not list(copy.rglob("ran"))

    notary, trusted = NotebookNotary(data_dir=str(data)), set()
    for path in books.rglob("*.ipynb"):
        try:
            trusted |= {path} if notary.check_signature(nbformat.read(path, 4)) else set()
        except (OSError, nbformat.reader.NotJSONError):
            assert path in (emptied, merged, folder, books / "empty.ipynb")
    assert trusted == kept


def test_the_list_of_ours_is_as_the_notebooks_are():
    assert OURS.read_text(encoding="utf-8") == hashes(), "store what you changed: python tests/notebook_tools.py PATH"


@pytest.mark.parametrize("target", ["cuda", "bench-cuda"])
@pytest.mark.parametrize("before", ["", "/elsewhere"])
def test_the_current_folder_does_not_slip_into_the_path(target, before, tmp_path):
    """An empty entry of PYTHONPATH stands for the current folder, and whatever lies there would be imported."""
    python = program(tmp_path / "python", 'case $1 in -c) ;; *) echo "PYTHONPATH=$PYTHONPATH"; exit 1 ;; esac')
    said = make(ROOT, "--silent", target, f"PYTHON={python}", PYTHONPATH=before).stdout
    assert said == f"PYTHONPATH={ROOT / 'src'}" + (f":{before}\n" if before else "\n")


def test_make_lists_what_there_is():
    listed = " ".join(line.split()[1] for line in make(ROOT).stdout.splitlines())
    assert listed == "help lab test cuda bench bench-cuda pics notebooks lock clean"
