"""Trust the notebooks of the course: JupyterLab then shows their stored drawings before a cell is run.

    python -I notebooks/trust.py

What is stored in a notebook may be a program, and JupyterLab runs it on opening if the notebook is signed with the
reader's key. So only what we wrote is signed: a notebook that `ours.sha256` lists (`make notebooks` writes it), as it
was listed. What else lies in this folder, or has changed since, is not even read as a notebook; and with -I no module
that lies here takes the place of one of Python's.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat.sign import TrustNotebookApp

HERE = Path(__file__).parent


def ours():
    """The content of each listed notebook that is still as it was listed."""
    for line in (HERE / "ours.sha256").read_text(encoding="utf-8").splitlines():
        wanted, name = line.split(maxsplit=1)
        with suppress(OSError):  # there is none, or it cannot be read
            content = (HERE / name).read_bytes().replace(b"\r\n", b"\n")  # as git may store it on Windows
            if sha256(content).hexdigest() == wanted:
                yield content.decode()


def main():
    app = TrustNotebookApp()  # what `jupyter trust` is: it knows where the reader's key is
    app.initialize([])
    for content in ours():
        app.notary.sign(nbformat.reads(content, nbformat.NO_CONVERT))


if __name__ == "__main__":
    main()
