"""The house: which room may import which. A reading list on top of wings, without a circle."""

import ast
from graphlib import TopologicalSorter

import pytest

from notebook_tools import ROOT

SOURCE = ROOT / "src"
READING_LIST = ["collectives", "compare", "cost", "layers", "mesh", "moves", "plots", "record", "shards"]
CORE = {*READING_LIST, ""}  # "" is the package itself, which has Mesh and Shards
MAY_IMPORT = {  # wing: what of the house it may import beside itself
    "plumbing": set(),
    "pictures": set(),
    **dict.fromkeys(CORE, CORE | {"plumbing", "pictures"}),
    "ranks": CORE | {"plumbing", "pictures"},
    "exercises": CORE | {"plumbing", "pictures", "ranks", "labs"},
    "labs": CORE | {"plumbing", "pictures", "ranks", "exercises"},
    "__main__": CORE | {"plumbing", "pictures", "ranks", "labs", "exercises"},
}


def name_of(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


ROOMS = {name_of(path): path for path in sorted((SOURCE / "shardlab").rglob("*.py"))}


def imported(text):
    """The modules of ours that a text imports, wherever in it: `from shardlab.ranks import pool` means the pool."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "say where from: from shardlab.wing.room import name"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            continue
        for name in found:
            if name.split(".")[0] == "shardlab":
                while name not in ROOMS:
                    name = name.rpartition(".")[0]
                yield name


def wing_of(room):
    return (room.split(".") + [""])[1]


IMPORTS = {room: set(imported(path.read_text(encoding="utf-8"))) - {room} for room, path in ROOMS.items()}


def test_the_reading_list_stands_on_top_and_all_else_in_wings():
    top = {wing_of(room) for room in ROOMS}
    assert top == CORE | {"__main__", "plumbing", "pictures", "ranks", "labs", "exercises"}


def test_there_is_no_circle():
    rooms = {room: {other for other in others if not room.startswith(f"{other}.")} for room, others in IMPORTS.items()}
    assert len(list(TopologicalSorter(rooms).static_order())) == len(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_what_its_wing_may_not(room):
    wing = wing_of(room)
    assert {wing_of(other) for other in IMPORTS[room]} <= MAY_IMPORT[wing] | {wing}


def test_an_import_is_found_wherever_it_hides():
    assert set(imported("from shardlab.ranks import pool, RankError")) == {"shardlab.ranks.pool", "shardlab.ranks"}
    assert set(imported("def f():\n    import shardlab.pictures.svg as s")) == {"shardlab.pictures.svg"}
    assert set(imported("from shardlab import Mesh\nimport torch")) == {"shardlab"}
