"""`python -m shardlab`: the devices, and a notebook run as a program."""

import runpy

import nbformat
import pytest

from notebook_tools import LESSONS, ROOT
from test_ranks import torchrun

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


def test_an_error_names_its_cell_and_ends_the_run(tmp_path, capsys):
    path = notebook(tmp_path, "a = 1", "assert a == 2, 'as it should'", "print('never')")
    with pytest.raises(SystemExit) as exit:
        main([path])
    said = capsys.readouterr()
    assert exit.value.code == 1 and "never" not in said.out
    assert f"FAILED on one process: {path}, cell 1" in said.err and "as it should" in said.err


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_every_lesson_is_a_program(path, capsys):
    main([str(path)])
    assert f"passed: {path}" in capsys.readouterr().out


@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_a_lesson_runs_on_two_ranks(tmp_path):
    status, out, err = torchrun(2, "-m", "shardlab", str(ROOT / "notebooks/01_linear_layer.ipynb"))
    assert status == 0, err
    assert out.count("Row linear mismatch") == 1, "rank 0 alone prints"
    assert out.endswith("cells on 2 ranks\n")


@pytest.mark.ranks
@pytest.mark.timeout(200)
def test_an_error_on_one_rank_alone_is_an_error(tmp_path):
    path = notebook(
        tmp_path,
        "from shardlab import Mesh\n\nmesh = Mesh()",
        ("one-process", "1 / 0"),
        "assert mesh.ranks != [1], 'as it should'",
    )
    status, out, err = torchrun(2, "-m", "shardlab", path)
    assert status == 1 and "passed" not in out
    assert f"FAILED on rank 1 of 2: {path}, cell 2" in err and "as it should" in err
