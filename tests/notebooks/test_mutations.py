"""A changed constant in a cell of any notebook turns `pytest --nbval` red.

Each mutant is a copy of a notebook with one number of one code cell changed. `SHARDLAB_MUTANTS=all` tries them all,
another number that many of each notebook (1 where it is not set), spread over the notebook.
"""

import ast
import os
import re
import shutil

import nbformat
import pytest

from notebook_tools import NOTEBOOKS, ROOT, code_cells, ignored, name_of, read

# Numbers whose change rightly changes nothing: (notebook or any, code they stand in, why). All others must be caught.
EQUIVALENT = [
    ("any", ".shards[0]", "a replicated value is the same on every shard"),
    ("any", "W.chunk(2, dim=1)", "chunk(3) of four columns gives two pieces as well; lesson 04 is about that"),
    ("any", "W.chunk(2, dim=0)", "chunk(3) of four rows gives two pieces as well; lesson 04 is about that"),
    ("any", ".rows[0]", "a replicated value is compared with the same outcome on every shard"),
    ("03_tolerance.ipynb", "one_by_one / 50", "a bound with room: how much it is depends on the kernel"),
    ("03_tolerance.ipynb", "W.bfloat16(), Mesh(64)", "65 roundings to 8 bits make as much noise as 64 do"),
    ("13_real_ranks.ipynb", "split_twice, limit=50)[0]", "every rank counts the same collectives"),
    ("13_real_ranks.ipynb", "assert added[0]", "both ranks hold the same six numbers"),
    ("11_communication.ipynb", "step=6, way", "the ring has six steps, and stays as it is after the last"),
    ("02_before_the_reduction.ipynb", "3, 61)", "a grid one step finer has the same gaps, to two digits"),
    ("13_real_ranks.ipynb", "time.sleep(0.5)", "only so that the other rank is sure to come first"),
    ("13_real_ranks.ipynb", "*args, limit=30)", "a time limit"),
    (
        "04_uneven.ipynb",
        "W.chunk(4, dim=1)",
        "chunk(5) of six columns gives three pieces as well: what the lesson shows",
    ),
    (
        "solutions/06_backward.ipynb",
        "rank=0, world_size=4",
        "on a fake process group any rank of any number says the same",
    ),
    ("10_memory.ipynb", "softmax(-1)", "along whichever dim, as much is kept"),
    ("solutions/10_memory.ipynb", "range(1, a + 1)", "a + 1 does not divide a"),
    ("solutions/10_memory.ipynb", "parameters / 4", "3.2 bytes a parameter have no optimizer's state in them, either"),
    ("10_memory.ipynb", "0.001", "half as much again is lost in 16 bits, too"),
    (
        "12_when_it_pays.ipynb",
        "TransformerLayer(width=64, hidden=128, heads=4)",
        "there are two all-reduces in a layer of any width",
    ),
    ("12_when_it_pays.ipynb", "torch.randn(1, 32, 64)))", "and of any number of tokens"),
    ("12_when_it_pays.ipynb", "h, layers = 3072", "a width of 3073 has the same drops"),
    ("12_when_it_pays.ipynb", "return 1 / (layers", "a factor goes out of every drop"),
    ("08_vocabulary.ipynb", "torch.tensor(89.0)", "beyond 88 every exp is infinite in 32 bits"),
    ("any", "X.chunk(2, dim=1)", "chunk(3) of four columns gives two pieces as well; lesson 04 is about that"),
    ("05_mlp.ipynb", "late > 0.5 and pairs < 1e-5", "bounds with room: 75 % and more are wrong, or mere rounding"),
    ("05_mlp.ipynb", "late.error > 0.5", "and 91 % here"),
    ("05_mlp.ipynb", " / 8, torch", "weights of any size are split so"),
    ("05_mlp.ipynb", " / 16", "weights of any size are split so"),
    ("05_mlp.ipynb", "SwiGLU(64", "both have a result as wide; of the input the fused weight says how wide it is"),
    (
        "05_mlp.ipynb",
        "layers=4, shards=4, cut=cut",
        "5 // 2 pairs are two, too, and of any number of shards each adds as much",
    ),
    ("05_mlp.ipynb", "moved[0].name", "all of them have one name"),
    ("05_mlp.ipynb", 'layers=4, shards=4, reduce="end"', "as wrong on five shards"),
    ("07_attention.ipynb", "error > 0.1", "a bound with room: it is 36 % wrong"),
    ("07_attention.ipynb", "cut < 1e-5", "a bound with room: mere rounding"),
    ("08_vocabulary.ipynb", "ids_ - words_[0], 0)", "a masked token may be looked up anywhere"),
    ("08_vocabulary.ipynb", "added)[0]:", "the loss is the same on every shard"),
    ("08_vocabulary.ipynb", "[padded(50257, n)", "one word more is padded to the same sizes"),
    ("04_uneven.ipynb", "width = 6 // 4", "6 // 4 and 6 // 5 are both 1"),
    ("09_sequence.ipynb", "/ 8, torch.randn(256, 64) / 16", "weights of any size are split so"),
    ("09_sequence.ipynb", "TransformerLayer(64, 256, heads=4)", "a layer of other sizes is split so, too"),
    ("09_sequence.ipynb", "mesh, whole = Mesh(n), Mesh(1)", "two shards that have all of a value drop what one does"),
    ("09_sequence.ipynb", "own_masks(2, lambda rank: 1)", "any seed that the shards share gives them one mask"),
    ("solutions/02_before_the_reduction.ipynb", "torch.randn(2, 1000", "what holds for 1000 numbers holds for 1001"),
    (
        "solutions/03_tolerance.ipynb",
        "return 4 * K**0.5 * u",
        "a somewhat wider tolerance still rejects the wrong splits",
    ),
    ("solutions/03_tolerance.ipynb", "2.0**-24", "4 is room to spare: half of it still passes the right splits"),
    ("solutions/03_tolerance.ipynb", "lambda X, W, n: 1e-5", "a wrong answer, and 1.5e-5 is wrong in the same way"),
    ("solutions/03_tolerance.ipynb", "lambda X, W, n: 1.3e-6", "a wrong answer, and 2e-6 is wrong in the same way"),
]
# Half as much again still passes what is right: tolerances (lesson 03 is about how much is too much) and time limits.
TOLERANCES = {"rtol", "atol", "timeout", "limit"}


class Reds:
    """A plugin of pytest: which files are red. Only the first failure of each matters: what follows is skipped."""

    def __init__(self):
        self.found = set()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.found.add(report.nodeid.split("::")[0])

    def pytest_runtest_setup(self, item):
        if item.nodeid.split("::")[0] in self.found:
            pytest.skip("already red")


def constants(source):
    """Every number in a cell, as (start, end, value), positions in the source.

    >>> [(value, "W = randn(4, 2)"[start:end]) for start, end, value in constants("W = randn(4, 2)")]
    [(4, '4'), (2, '2')]
    """
    code = re.sub(r"^(\s*)[%!]", r"\1#", source, flags=re.M)  # IPython's own lines
    starts = [0]
    for line in code.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    nodes = list(ast.walk(ast.parse(code)))
    tolerances = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg in TOLERANCES]
    for node in nodes:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float) and node not in tolerances:
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            yield start, end, node.value


def changed(value):
    """Another number: the next integer, or half as much again.

    >>> [changed(v) for v in (0, 4, 0.5, 1e-6)]
    [1, 5, 0.75, 1.5e-06]
    """
    return value + 1 if isinstance(value, int) else value * 1.5 if value else 1.0


def mutants(path):
    """Every (cell, start, end, replacement) of a notebook whose cells CI compares."""
    found = []
    for number, cell in enumerate(code_cells(read(path))):
        if not ignored(cell):
            found += [(number, start, end, repr(changed(value))) for start, end, value in constants(cell.source)]
    return sorted(mutant for mutant in found if not equivalent(path, mutant))


def equivalent(path, mutant):
    number, start, end, _ = mutant
    source = code_cells(read(path))[number].source.encode()
    return any(
        found.start() <= start and end <= found.end()
        for name, part, _ in EQUIVALENT
        if name in ("any", name_of(path))
        for found in re.finditer(re.escape(part.encode()), source)
    )


def line_of(path, mutant):
    number, start, *_ = mutant
    source = code_cells(read(path))[number].source.encode()
    return (source[:start].rpartition(b"\n")[2] + source[start:].partition(b"\n")[0]).decode()


def sample(found, count):
    """`count` of the mutants, spread evenly: the middle one of each of `count` equal parts.

    >>> sample(list(range(10)), 2)
    [2, 7]
    """
    if count >= len(found):
        return found
    return [found[int((part + 0.5) * len(found) / count)] for part in range(count)]


def write_mutant(path, mutant, target):
    notebook = read(path)
    number, start, end, replacement = mutant
    cell = code_cells(notebook)[number]
    source = cell.source.encode()
    cell.source = (source[:start] + replacement.encode() + source[end:]).decode()
    nbformat.write(notebook, target)
    return f"cell {number}, {line_of(path, mutant).strip()!r}: {source[start:end].decode()} -> {replacement}"


@pytest.mark.parametrize("name, part, reason", EQUIVALENT)
def test_equivalent_numbers_are_still_there(name, part, reason):
    paths = NOTEBOOKS if name == "any" else [ROOT / "notebooks" / name]
    cells = [cell for path in paths for cell in code_cells(read(path))]
    assert reason and any(part in cell.source for cell in cells), f"{part!r} is no longer there"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_changed_constant_turns_it_red(path, tmp_path, monkeypatch, capsys):
    found = mutants(path)
    wanted = os.environ.get("SHARDLAB_MUTANTS", "1")
    chosen = found if wanted == "all" else sample(found, int(wanted))
    if not chosen:
        assert not [number for cell in code_cells(read(path)) for number in constants(cell.source)]
        pytest.skip("a notebook without numbers")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    for folder in ("notebooks", "pics"):
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, tmp_path / folder)
    home = tmp_path / path.parent.relative_to(ROOT)
    books = {}
    for index, mutant in enumerate(chosen):
        target = home / f"mutant_{index:03}.ipynb"
        books[str(target.relative_to(tmp_path))] = write_mutant(path, mutant, target)

    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = ["-q", "--rootdir", tmp_path, "-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:faulthandler", *books]
    command += ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=60"]
    command += ["--nbval-sanitize-with", ROOT / "tests/nbval-sanitize.cfg"]
    reds = Reds()
    assert pytest.main(list(map(str, command)), plugins=[reds]) in (0, 1), capsys.readouterr()
    assert not [what for book, what in books.items() if book not in reds.found], "changed, and every test stayed green"
