"""Errors that say which mistake an answer makes, by torch's own message or by that of a collective."""

import re


def misfit(error, case):
    """(name, hint) for an error that is known; None for any other."""
    if "leaf Variable that requires grad is being used in an in-place" in error:
        return "arguments changed", "An argument is written into, and others may still need it: make a new value. "
    return (
        of_a_collective(error)
        or of_an_index(error)
        or of_two_shapes(error)
        or of_a_view(error, case)
        or of_a_product(error, case)
    )


def of_a_collective(error):
    """The shards bring shapes that do not fit each other."""
    along = "along dim (\\d+), where the other dims must agree, "
    found = re.search(rf"(\w+) (?:{along})?wants one shape on every shard", error)
    shapes = [list(map(int, re.findall(r"\d+", shape))) for shape in re.findall(r"shard \d+: (\[[\d, ]*\])", error)]
    if not found or len({len(shape) for shape in shapes}) != 1:
        return None
    different = [dim for dim, sizes in enumerate(zip(*shapes, strict=True)) if len({*sizes}) > 1]
    if len(different) != 1:
        return None
    (dim,) = different
    if found[2]:
        hint = f"The shards differ along dim {dim}, and that is the dim to put them side by side. "
        return "gather on the wrong dim", hint
    hint = f"The shards hold pieces of unequal size, as of a value that is cut along dim {dim}: pieces are gathered"
    return "pieces added up", f"{hint}, and {found[1]} is for values of one shape. "


def of_an_index(error):
    """A row or a column that is looked up where it is not."""
    found = re.search(r"index (-?\d+) is out of bounds for dimension \d+ with size (\d+)", error)
    if not found and "index out of range in self" not in error:
        return None
    where = f": index {found[1]}, where there are {found[2]}" if found else ""
    hint = f"A shard looks up what it does not have{where}. What is on another shard is to be looked up there"
    return "looked up on the wrong shard", f"{hint}; here take any place that exists, and mask it away. "


def of_two_shapes(error):
    """Two shapes that meet element by element."""
    if "must match the size" not in error or "matmul(" in error:
        return None
    if "mul(" in error:
        return "elementwise product", "The sign * multiplies element by element; the matrix product is X @ W. "
    hint = "Shapes are aligned at their last dims, so that [N] fits each row of [B, N] as it is"
    return "shapes that do not align", f"{hint}, and these two do not fit. "


def of_a_view(error, case):
    """A view that does not find whole heads, where the exercise has heads."""
    if not case.numbers or not re.search(
        "invalid for input of size|don't multiply up to|of size 0|elements into", error
    ):
        return None
    hint = (
        "A view does not find whole heads in what a shard has. It has 1/n of the q heads, and where a plain cut of k "
    )
    return (
        "no whole heads",
        f"{hint}or v leaves less than a head, every shard needs the heads that its own attend with. ",
    )


def of_a_product(error, case):
    """A matrix product whose shapes do not fit."""
    found = re.search(r"cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)", error)
    if not found:
        return None
    a, b, c, d = map(int, found.groups())
    if [*case.results] != ["y"] or "X" not in case.tensors:  # there are other products than X @ W
        return transposed(a, b, c, d, error) or ("an error", f"[{a}, {b}] @ [{c}, {d}] does not fit. ")
    X = case.tensors["X"].shape[1]
    share = X // case.n if case.placing["X"] == "by columns" else X  # the columns and rows that are to meet
    sides = f"{b} columns on the left meet {c} rows on the right, and {share} are to meet {share}"
    if {b, c} == {share, share * case.n}:
        hint = (
            "One side is n times too large where they meet: it looks gathered before the product. Multiply the pieces"
        )
        return "gathered before the product", f"{hint}, and communicate the result: {sides}. "
    if found := transposed(a, b, c, d, error):
        return found
    if a == d and c == len(case.tensors["X"]):
        return "transposed", f"The shapes look exchanged: [{c}, {d}] @ [{a}, {b}] would fit, which is X @ W. "
    if max(b, c) == share:
        return (
            "cut along the wrong dim",
            f"One side is too small where they meet: along which dim was it cut? {sides}. ",
        )
    if 0 < max(b, c) - share < case.n:
        return "padded along the wrong dim", f"One side was made longer where they meet: {sides}. "
    return "an error", f"The shapes do not fit: {sides}. "


def transposed(a, b, c, d, error):
    """[a, b] @ [c, d] would fit with one of them transposed."""
    if b != d and a != c:
        return None
    which, fits = ("second", f"[{a}, {b}] @ [{d}, {c}]") if b == d else ("first", f"[{b}, {a}] @ [{c}, {d}]")
    which = "one of the two" if b == d and a == c else f"the {which} one"
    linear = " (F.linear transposes its weight by itself, and W here is [in, out])" if "linear(" in error else ""
    return "transposed", f"The shapes look transposed: with {which} transposed they would fit, {fits}{linear}. "
