"""`python -m shardlab`: the devices, and a notebook run as a program."""

import importlib.util
import os
import runpy
import subprocess
import sys
import threading
import time
from contextlib import suppress

import nbformat
import psutil
import pytest
from IPython.core.interactiveshell import InteractiveShell
from test_ranks import end, plainly, torchrun

import forked
from notebook_tools import LESSONS, NOTEBOOKS, ROOT, code_cells, read
from shardlab.plumbing import agreement
from shardlab.ranks.fates import verdict, whereabouts

main = runpy.run_module("shardlab.__main__")["main"]


def notebook(folder, *cells):
    """A notebook of code cells; ("tag", "source") for one with a tag."""
    made = nbformat.v4.new_notebook()
    for cell in cells:
        *tags, source = (cell,) if isinstance(cell, str) else cell
        made.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    nbformat.write(made, folder / "sample.ipynb")
    return str(folder / "sample.ipynb")


def test_it_says_what_devices_are_here(capsys):
    main([])
    assert "shard 0 on " in capsys.readouterr().out


def test_cells_share_their_names_and_show_their_last_line(tmp_path, capsys):
    path = notebook(tmp_path, "a = 20\nNone", "def f(x):\n    return a + x\n\n\nf(1)", ("needs-a-person", "1 / 0"), "")
    main([path])
    assert capsys.readouterr().out == f"21\npassed: {path}, 3 cells on one process\n"


def test_what_a_cell_imports_that_is_left_out_is_there_for_the_others(tmp_path, capsys):
    path = notebook(
        tmp_path, ("needs-a-person", "import json\n1 / 0"), ("needs-a-person", "%time 1 / 0"), "json.loads('7')"
    )
    main([path])
    assert capsys.readouterr().out == f"7\npassed: {path}, 1 cells on one process\n"


def test_an_error_names_its_cell_and_ends_the_run(tmp_path, capsys):
    path = notebook(tmp_path, "a = 1", "assert a == 2, 'as it should'", "print('never')")
    with pytest.raises(SystemExit) as exit:
        main([path])
    said = capsys.readouterr()
    assert exit.value.code == 1 and "never" not in said.out
    assert f"FAILED on one process: {path}, cell 1" in said.err and "as it should" in said.err


AS_IN_JUPYTER = [  # a cell, and what it shows
    ("import helper\nhelper.value", "42"),
    ("%%time\nx = 3\nx + 1", "4"),
    ("print(_, Out[2], _2, get_ipython().user_ns['x'])\n'a string'", "4 4 4 3\n'a string'"),
    ("!echo {x} && cat\nfiles = !ls\nfiles", "3\n['helper.py', 'sample.ipynb']"),
    ("import asyncio\n\nawait asyncio.sleep(0, 'slept')", "'slept'"),
    ("display(5, {'a': 1})\n7;", "5\n{'a': 1}"),
    ("from IPython.display import HTML\n\nHTML('<b>bold</b>')", "<IPython.core.display.HTML object>"),
    ("import pickle\n\n\nclass C:\n    v = 1\n\n\npickle.loads(pickle.dumps(C())).v", "1"),
    ("%load_ext autoreload\n%autoreload 2\n%store x", "Stored 'x' (int)"),
    ("%%bash\necho from bash", "from bash"),
    ("%%capture out\nprint('hidden')", ""),
    ("out.stdout", "'hidden\\n'"),
    ("from shardlab.plumbing.agreement import call_site\n\ncall_site()", "'line 3 of sample.ipynb, cell 12'"),
    ("%%time\nx = 4\ncall_site()", "'line 2 of its timed cell'"),
    ("def f():\n    return call_site()\n\n\nf()", "'f, line 2 of sample.ipynb, cell 14'"),
]


def test_cells_behave_as_in_jupyter(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr("builtins._", raising=False)  # a doctest in this process has left it
    (tmp_path / "helper.py").write_text("value = 42")
    path = notebook(tmp_path, *[cell for cell, _ in AS_IN_JUPYTER])
    main([path])
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if not line.startswith(("CPU times", "Wall time", "Compiler"))]
    shown = "\n".join(shown for _, shown in AS_IN_JUPYTER if shown)
    assert "\n".join(lines) == f"{shown}\npassed: {path}, {len(AS_IN_JUPYTER)} cells on one process"
    assert said.err == ""


def test_the_lines_of_the_shell_are_nobodys():
    assert agreement.is_plumbing(InteractiveShell.run_cell.__code__.co_filename)
    assert agreement.is_plumbing(importlib.util.find_spec("ipykernel").origin)
    assert not agreement.is_plumbing("/tmp/ipykernel_8/123.py") and not agreement.is_plumbing("a.ipynb, cell 3")


ALONE = [  # a cell that wants a person or a screen, and what it shows
    ("len?", "Signature: len(obj, /)"),
    ("import ipywidgets\n\nipywidgets.IntSlider()", "IntSlider(value=0)"),
    ("ipywidgets.interact(lambda x: print('twice', 2 * x), x=3);", "twice 6"),
    ("import sys\n\nsys.stdin.readline()", "''"),
    ("%matplotlib widget\n%env MPLBACKEND", "'module://matplotlib_inline.backend_inline'"),
    ("import matplotlib.pyplot as plt\n\nplt.plot([1, 2])\nplt.show()", "<Figure size 640x480 with 1 Axes>"),
    ("%matplotlib qt\n%gui tk", ""),
    ("%edit", "left there: {path}, cell 7"),
    ("import pdb\n\npdb.Pdb().set_trace()\nprint('never')", "left there: {path}, cell 8"),
    ("import getpass\n\ngetpass.getpass()\nprint('never')", "left there: {path}, cell 9"),
    ("name = input('Who? ')\nprint('never')", "left there: {path}, cell 10"),
]


def test_what_wants_a_person_or_a_screen_does_no_harm(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    path = notebook(tmp_path, *[cell for cell, _ in ALONE])
    main([path])
    said = capsys.readouterr().out
    for _, shown in ALONE:
        assert shown.format(path=path) in said
    assert "never" not in said and said.endswith(f"passed: {path}, 7 cells on one process\n")


def test_a_command_of_a_cell_has_no_input(tmp_path, capsys):
    keyboard, (reader, writer) = os.dup(0), os.pipe()
    os.write(writer, b"typed")
    os.dup2(reader, 0)
    try:
        main([notebook(tmp_path, "!head -c 5")])
    finally:
        os.dup2(keyboard, 0)
        for fd in (keyboard, reader, writer):
            os.close(fd)
    assert "typed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("%%time\nx = 1\nx / 0", "ZeroDivisionError: division by zero"),
        ("%%capture\nprint('hidden')\n1 / 0", "ZeroDivisionError: division by zero"),
        ("%run broken.py", "ZeroDivisionError: division by zero"),
        ("await broken()", "NameError: name 'broken' is not defined"),
        ("%nosuch", "UsageError: Line magic function `%nosuch` not found."),
        ("!sleep 100 &", "OSError: what runs in the background would outlive the notebook"),
        ("if True:\nprint('never')", "IndentationError: expected an indented block after 'if' statement on line 1"),
    ],
)
def test_an_error_under_a_magic_fails_its_cell(tmp_path, capsys, cell, line):
    """Also where Jupyter would only show it, and go on."""
    (tmp_path / "broken.py").write_text("1 / 0")
    path = notebook(tmp_path, "a = 1", cell, "print('never')")
    with pytest.raises(SystemExit):
        main([path])
    said = capsys.readouterr()
    assert f"FAILED on one process: {path}, cell 1\n" in said.err and "never" not in said.out
    assert said.err.rstrip().endswith(line)
    assert "interactiveshell.py" not in said.err and "execution.py" not in said.err, "the notebook's lines alone"


def test_a_notebook_leaves_everything_as_it_was(tmp_path, capsys, monkeypatch):
    """The next one has its own modules, and nothing is written, not even in the user's home."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(home))
    sets = "import os\n\nimport torch\n\nos.environ['NEW'] = ''\ntorch.set_default_dtype(torch.float64)"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "beside.py").write_text(f"value = {name!r}")
    looks = "'NEW' in os.environ, torch.get_default_dtype(), torch.is_grad_enabled(), 'sets' in globals()"
    paths = [
        notebook(
            tmp_path / "one", "import beside\n\nbeside.value", sets, "sets = torch.set_grad_enabled(False)\n%store sets"
        ),
        notebook(tmp_path / "two", "import os\n\nimport beside\nimport torch\n\nbeside.value", looks),
    ]

    def state():
        return sys.modules["__main__"], [*sys.path], sys.stdin, sys.displayhook, input, {**os.environ}, os.getcwd()

    before = state()
    main(paths)
    assert state() == before
    shown = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("passed")]
    assert shown == ["'one'", "Stored 'sets' (set_grad_enabled)", "'two'", "(False, torch.float32, True, False)"]
    assert not list(home.iterdir()) and not InteractiveShell.initialized()


@pytest.mark.parametrize("path", LESSONS[::4], ids=lambda path: path.name)
def test_a_lesson_is_a_program(path, capsys):
    """All of them, and their solutions, run on two ranks below."""
    main([str(path)])
    assert f"passed: {path}" in capsys.readouterr().out


def test_the_cells_can_display_and_their_lines_are_in_the_traceback(tmp_path, capsys):
    path = notebook(tmp_path, "display(1 + 1)", "def broken():\n    return 1 / 0  # here", "broken()")
    with pytest.raises(SystemExit):
        main([path])
    said = capsys.readouterr()
    assert said.out == "2\n" and "1 / 0  # here" in said.err and "__main__.py" not in said.err


@pytest.mark.parametrize("ending", ["exit()", "raise KeyboardInterrupt", "raise SystemExit(0)", "1 +"])
def test_a_cell_that_ends_the_program_has_failed(tmp_path, capsys, ending):
    path = notebook(tmp_path, ending)
    with pytest.raises(SystemExit) as exit:
        main([path])
    assert exit.value.code == 1 and f"FAILED on one process: {path}, cell 0" in capsys.readouterr().err


def ran(path, left_out):
    return sum(not left_out & set(cell.metadata.get("tags", [])) for cell in code_cells(read(path)))


@pytest.mark.ranks
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("n", "paths"), [(2, NOTEBOOKS), (4, [ROOT / "notebooks/03_tolerance.ipynb"])], ids=["2", "4"])
def test_notebooks_run_on_ranks(n, paths):
    start = plainly if n == 2 else forked.python
    status, out, err = torchrun(n, "-m", "shardlab", *map(str, paths), start=start)
    assert status == 0, err
    verdicts = [line for line in out.splitlines() if line.startswith("passed")]
    left_out = {"needs-a-person", "one-process"}
    assert verdicts == [f"passed: {path}, {ran(path, left_out)} cells on {n} ranks" for path in paths]
    assert sum(line in ("close", "not close") for line in out.splitlines()) == 1, "rank 0 alone prints"


SETUP = "import torch\nfrom shardlab import Mesh\n\nmesh = Mesh()\nx_ = mesh.replicate(torch.ones(3))"
IN_VAIN = "mesh.all_reduce(x_)"


def fails(n, path):
    """Run it on n ranks, and see that it fails, soon, with one verdict; what was printed, and the errors."""
    start = time.monotonic()
    status, out, err = torchrun(n, "-m", "shardlab", path)
    assert status == 1 and "passed" not in out
    assert time.monotonic() - start < 50, "the limit of a collective is 60 s, and nobody waits for it"
    assert sum(line.startswith("FAILED") for line in err.splitlines()) == 1, err
    return out, err


@pytest.mark.ranks
@pytest.mark.timeout(200)
@pytest.mark.parametrize("guilty", [[0], [1], [0, 1]], ids=str)
def test_the_verdict_names_the_rank_and_the_cell(tmp_path, guilty):
    """Also where the others wait for it, and where it is the one that prints."""
    wrong = f"print('before')\nassert mesh.ranks[0] not in {guilty}, 'as it should'"
    path = notebook(tmp_path, SETUP, ("one-process", "1 / 0"), wrong, IN_VAIN, "print('never')")
    out, err = fails(2, path)
    who = "ranks 0, 1" if len(guilty) == 2 else f"rank {guilty[0]}"
    assert f"FAILED on {who} of 2: {path}, cell 2\n" in err
    assert err.count("AssertionError: as it should") == 1 and "Connection closed" not in err
    assert out == "before\n"


@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_a_rank_that_ends_without_a_word_is_named(tmp_path):
    """Killed, or gone with status 0; whether the others wait in a collective or compute for ever."""
    gone = "import os, time\n\nif mesh.ranks == [2]:\n    os._exit(0)\nif mesh.ranks == [1]:\n    time.sleep(600)"
    path = notebook(tmp_path, SETUP, gone, IN_VAIN)
    _, err = fails(4, path)
    assert (
        f"FAILED on rank 2 of 4: ended without a word (killed? out of memory?) in, or soon after, {path}, cell 1" in err
    )

    killed = "import os, time\n\nif mesh.ranks == [0]:\n    os.kill(os.getpid(), 9)\ntime.sleep(600)"
    _, err = fails(2, notebook(tmp_path, SETUP, killed))
    assert (
        f"FAILED on rank 0 of 2: ended without a word (killed? out of memory?) in, or soon after, {path}, cell 1" in err
    )


@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_the_odd_one_of_a_mismatch_is_named(tmp_path):
    other = "from shardlab import Shards\n\nmesh.all_reduce(Shards([torch.ones(2 + (mesh.ranks == [2]))], mesh))"
    path = notebook(tmp_path, SETUP, other)
    _, err = fails(3, path)
    assert f"FAILED on rank 2 of 3: {path}, cell 1\n" in err and "Odd: shard 2" in err


@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_one_collective_more_than_the_others(tmp_path):
    """It meets the last one, in which every rank says that it has come to its end."""
    more = "%%time\n!echo said\nif mesh.ranks == [1]:\n    mesh.all_gather(x_, dim=0)"
    path = notebook(tmp_path, SETUP, more, "display('end')")
    out, err = fails(3, path)
    lines = out.splitlines()
    assert (lines[0], lines[-1], lines.count("said")) == ("said", "'end'", 1), "what a magic prints, too, rank 0 alone"
    assert f"FAILED on rank 1 of 3: {path}, cell 1\n" in err
    assert "shard 1: all_gather" in err and "shard 2: all_reduce sum" in err and "after its last cell" in err
    assert "shard 1 line 3 of its timed cell" in err and "interactiveshell.py" not in err


@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_of_two_ranks_that_miss_each_other_both_are_named(tmp_path):
    """One collective too many, or one too few: nobody can tell."""
    soon = "from datetime import timedelta\n\nfrom shardlab.plumbing import board\n\n"
    soon += "board.TIMEOUT = timedelta(seconds=3)"
    more = "if mesh.ranks == [1]:\n    mesh.all_reduce(x_)"
    path = notebook(tmp_path, SETUP, soon, more, "import time\n\ntime.sleep(600)")
    status, out, err = torchrun(2, "-m", "shardlab", path)
    assert status == 1 and "passed" not in out
    assert f"FAILED on rank 0 of 2: never came to where the others wait: {path}, cell 3\n" in err
    assert f"FAILED on rank 1 of 2: waited in vain: {path}, cell 2\n" in err
    assert f'{path}, cell 3", line 3' in err and f'{path}, cell 2", line 2' in err


@pytest.mark.ranks
@pytest.mark.timeout(200)
@pytest.mark.skipif(sys.platform != "linux", reason="the system ends a process with its parent on Linux alone")
def test_ranks_end_with_torchrun_also_where_it_is_killed(tmp_path):
    """Those of a script of one's own, too, which nobody watches."""
    program = "import os, sys\nfrom shardlab import Mesh\n\nmesh = Mesh()\n"
    program += "os.rename(open(f'{sys.argv[1]}/{os.getpid()}', 'x').name, f'{sys.argv[1]}/rank{os.getpid()}')\n"
    (tmp_path / "forever.py").write_text(program + "while True:\n    pass")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launch, ranks = subprocess.Popen([*command, tmp_path / "forever.py", tmp_path], env=environment), []
    try:
        while len(found := [*tmp_path.glob("rank*")]) < 2:
            assert launch.poll() is None
            time.sleep(0.1)
        ranks = [psutil.Process(int(path.name.removeprefix("rank"))) for path in found]
        launch.kill()
        launch.wait()
        for rank in ranks:
            while rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE:  # whoever adopted it may not bury it
                time.sleep(0.1)
    finally:
        end(launch)
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                rank.kill()


@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_an_error_of_torch_that_is_the_ranks_own_is_told(tmp_path):
    own = "import time\n\nif mesh.ranks == [1]:\n    torch.distributed.all_reduce(torch.ones(2, dtype=torch.int16))"
    path = notebook(tmp_path, SETUP, own, "time.sleep(3)")
    _, err = fails(2, path)
    assert f"FAILED on rank 1 of 2: {path}, cell 1\n" in err and "Invalid scalar type" in err


@pytest.mark.ranks
@pytest.mark.timeout(200)
@pytest.mark.parametrize("text", [None, '{"cells": ['])
def test_a_notebook_that_cannot_be_read_has_failed(tmp_path, text):
    path = tmp_path / "missing.ipynb"
    if text:
        path.write_text(text)
    _, err = fails(2, str(path))
    assert f"FAILED on ranks 0, 1 of 2: {path}\n" in err and ("JSONDecodeError" if text else "FileNotFoundError") in err


FAILED, SILENT, ENDED, BUSY, WAITS = (
    [kind, f"the cell where it {kind}", f"traceback of {kind}"]
    for kind in ("failed", "silent", "ended", "busy", "waits")
)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ([WAITS, FAILED, BUSY], "FAILED on rank 1 of 3: the cell where it failed\ntraceback of failed"),
        ([FAILED, FAILED, SILENT], "FAILED on ranks 0, 1 of 3: the cell where it failed\ntraceback of failed"),
        ([WAITS, SILENT, ENDED], "FAILED on rank 1 of 3: ended without a word"),
        ([ENDED, BUSY, WAITS], "FAILED on rank 0 of 3: was told to end"),
        ([WAITS, BUSY, WAITS], "FAILED on rank 1 of 3: never came to where the others wait: the cell where it busy"),
        ([WAITS, WAITS], "FAILED on ranks 0, 1 of 2: waited in vain"),
        ([WAITS, WAITS, WAITS, BUSY], "FAILED on rank 3 of 4: never came to where the others wait"),
    ],
)
def test_an_innocent_rank_is_not_named(notes, said):
    assert verdict(notes).startswith(said) and verdict(notes).count("FAILED") == 1


def test_without_a_majority_all_are_named():
    assert verdict([BUSY, WAITS]).splitlines() == [
        "FAILED on rank 0 of 2: never came to where the others wait: the cell where it busy",
        "traceback of busy",
        "FAILED on rank 1 of 2: waited in vain: the cell where it waits",
        "traceback of waits",
    ]
    assert verdict([BUSY, WAITS, WAITS, BUSY]).count("FAILED on ranks") == 2


def test_a_rank_that_never_comes_is_found_where_it_is(tmp_path, capsys):
    """Its watcher sees the main thread's cell and line."""
    path = notebook(
        tmp_path, "import threading\nfound = threading.Event()", "looks(found)\nassert found.wait(30)  # late"
    )
    seen = []

    def looks(found):
        threading.Timer(0.3, lambda: (seen.append(whereabouts()), found.set())).start()

    __builtins__["looks"] = looks
    try:
        main([path])
    finally:
        del __builtins__["looks"]
    ((kind, where, text),) = seen
    assert kind == "busy" and where == f"{path}, cell 1" and "found.wait(30)  # late" in text
