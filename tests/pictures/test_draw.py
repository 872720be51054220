"""The SVG drawings: valid, labelled, escaped, legible in both themes, and true to the numbers."""

import base64
import contextlib
import io
import re
import time
import xml.etree.ElementTree as xml

import pytest
import torch
from PIL import Image
from torch.nn.functional import gelu

from shardlab.pictures import cuts, draw, heat, kink, strips, svg
from shardlab.pictures.cuts import products
from shardlab.pictures.gantt import WAYS, gantt, shares

NAN, INF = float("nan"), float("inf")
TENSORS = {
    "scalar": torch.tensor(3.0),
    "vector": torch.tensor([1.0, -2.0]),
    "matrix": torch.eye(3),
    "three dims": torch.arange(12.0).reshape(2, 2, 3),
    "three large dims": torch.ones(2, 16, 16),
    "large": torch.linspace(-1, 2, 4000).reshape(40, 100),
    "long": torch.linspace(-1, 1, 500),
    "empty": torch.zeros(2, 0),
    "empty scalar row": torch.zeros(0),
    "int": torch.tensor([[1, -2]]),
    "bool": torch.tensor([True, False]),
    "bfloat16": torch.ones(2, 2, dtype=torch.bfloat16),
    "float64": torch.ones(20, 20, dtype=torch.float64),
    "complex": torch.ones(2, dtype=torch.complex64),
    "nan and inf": torch.tensor([NAN, INF, -INF, 1.0]),
    "large with nan": torch.full((20, 20), NAN),
    "zeros": torch.zeros(20, 20),
    "large ints": torch.arange(400).reshape(20, 20),
    "large bools": torch.ones(20, 20, dtype=torch.bool),
    "with a gradient": torch.ones(2, requires_grad=True),
}
X, W = torch.arange(8.0).reshape(2, 4) - 3, torch.arange(16.0).reshape(4, 4) / 8 - 1
CURVE = [(-2.0, 0.0), (0.0, 0.0), (2.0, 2.0)]
CLOUDS = [strips.Cloud(mark, mark, [1e-6, 0.0, 2e-4]) for mark in strips.MARKS]
DRAWINGS = {
    **{name: lambda t=t: draw.tiles([t], [0], ["cpu"]) for name, t in TENSORS.items()},
    **{
        f"split {how} {n}": lambda how=how, n=n: cuts.split(X, W, X @ W, how, n)
        for how in ("column", "row")
        for n in (1, 2, 3, 16)
    },
    "split heat": lambda: cuts.split(torch.ones(9, 40), torch.ones(40, 17), torch.ones(9, 17), "row", 3),
    "no shards": lambda: draw.tiles([], [], []),
    "error map": lambda: draw.error_map(X + 1, X),
    "large error map": lambda: draw.error_map(torch.zeros(70, 30), torch.ones(70, 30)),
    "deal": lambda: draw.deal(["cuda:0", "cuda:1", "cuda:0"]),
    **{f"product {k}": lambda k=k: cuts.product(torch.ones(2, k), torch.ones(k, 3), torch.ones(2, 3)) for k in (4, 20)},
    "gantt": lambda: gantt(10, 6, "chunk"),
    "more shards than columns": lambda: gantt(5, 16),
    "one output": lambda: kink.one_output(CURVE, [-0.5, 1.0], [0.0, 1.0], 0.5, (-2, 2, -1, 3), "a < b"),
    "many outputs": lambda: kink.many_outputs(CURVE, [-1.0, 1.5, 9.0], [0.5, 2.0, 0.0], (-2, 2, -1, 3), "f", 2),
    "strips": lambda: strips.strips(CLOUDS, (1e-3, 2e-3), (1e-5, 1e-4), line_at=1e-2),
}


def parse(drawing):
    return xml.fromstring(drawing)


def words(drawing):
    return [node.text for node in parse(drawing).iter() if node.tag.endswith("}text")]


def heat_maps(drawing):
    """The pixels of each heat map, RGBA."""
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', drawing)
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA") for data in found]


@pytest.mark.parametrize("name", DRAWINGS)
def test_is_one_labelled_svg(name):
    root = parse(DRAWINGS[name]())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img" and len(root.get("aria-label")) > 8
    assert "max-width:100%" in root.get("style")
    left, top, width, height = map(float, root.get("viewBox").split())
    assert width > 0 and height > 0 and float(root.get("width")) == width
    assert not [node for node in root.iter() if node.get("id")], "two drawings on a page would share the id"


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_is_drawn_outside(name):
    root = parse(DRAWINGS[name]())
    left, top, width, height = map(float, root.get("viewBox").split())

    def check(node, x, y):
        if node.get("transform"):
            dx, dy = map(float, re.findall(r"[-\d.]+", node.get("transform")))
            x, y = x + dx, y + dy
        if node.tag.endswith(("rect", "image")):
            right, bottom = (
                x + float(node.get("x")) + float(node.get("width")),
                y + float(node.get("y")) + float(node.get("height")),
            )
            assert right <= left + width + 0.5 and bottom <= top + height + 0.5
        if node.tag.endswith("text"):
            size, at = len(node.text) * 7.3, x + float(node.get("x"))
            at -= {"start": 0, "middle": size / 2, "end": size}[node.get("text-anchor")]
            assert at >= left - 2 and at + size <= left + width + 8 and y + float(node.get("y")) <= top + height
        for child in node:
            check(child, x, y)

    check(root, 0, 0)


def test_a_tile_for_each_shard():
    drawing = draw.tiles([torch.full((2, 1), float(rank)) for rank in range(9)], range(9), ["cpu", "cuda:0", "x"] * 3)
    assert [word for word in words(drawing) if word.startswith("shard")] == [
        f"shard {rank} · {device}" for rank, device in enumerate(["cpu", "cuda:0", "x"] * 3)
    ]
    assert words(drawing).count("float32 [2, 1]") == 9
    assert words(drawing).count("7") == 2
    assert (
        parse(drawing)
        .get("aria-label")
        .startswith("9 shards. shard 0 on cpu: float32 [2, 1] = 0; 0. shard 1 on cuda:0")
    )


def test_tiles_say_which_rank_where_only_one_is_held():
    drawing = draw.tiles([torch.ones(1)], [3], ["cuda:3"], "rank 3 of 4")
    assert "shard 3 · cuda:3" in words(drawing) and "rank 3 of 4" in words(drawing)


def test_many_tiles_wrap():
    drawing = draw.tiles([torch.ones(2, 2)] * 16, range(16), ["cpu"] * 16)
    assert float(parse(drawing).get("width")) <= 800


def test_as_many_tensors_as_ranks_and_devices():
    for wrong in ([0], ["cpu", "cpu"]), ([0, 1], ["cpu"]):
        with pytest.raises(ValueError):
            draw.tiles([torch.ones(1)] * 2, *wrong)


def test_words_are_escaped():
    bad = '<script>"&'
    assert bad in words(draw.tiles([torch.ones(1)], [0], ["cpu"], bad))
    assert any(bad in word for word in words(draw.tiles([torch.ones(1)], [0], [bad])))
    assert bad in parse(draw.tiles([torch.ones(1)], [0], ["cpu"], bad)).get("aria-label")
    assert bad in words(draw.deal([bad]))


@pytest.mark.parametrize(
    "name, said",
    {"scalar": ["3"], "vector": ["1", "-2"], "int": ["1", "-2"], "bool": ["True", "False"],
     "nan and inf": ["nan", "inf", "-inf", "1.0000"], "empty": ["float32 [2, 0]", "empty"],
     "bfloat16": ["1"], "large": ["-1 … 2"], "large with nan": ["400 NaN"], "complex": ["1.0000+0.0000j"]}.items(),
)  # fmt: skip
def test_values_are_written(name, said):
    assert set(said) <= set(words(DRAWINGS[name]()))


def test_tiles_of_equal_shape_have_equal_size():
    drawn = parse(draw.tiles([torch.tensor([0.5, 1.0]), torch.tensor([-1234.5, 2.0])], [0, 1], ["cpu"] * 2))
    frames = [(node.get("width"), node.get("height")) for node in drawn.iter() if node.get("fill-opacity")]
    assert len(frames) == 2 and len(set(frames)) == 1
    assert drawn.get("aria-label").endswith("float32 [2] = -1234 2.")


def test_three_dims_are_all_shown():
    assert {str(value) for value in range(12)} <= set(words(DRAWINGS["three dims"]()))


def test_text_for_print():
    said = draw.text([torch.tensor([[0.53239, 1.0]]), torch.zeros(0)], [2, 3], ["cuda:0", "cuda:1"])
    assert said == "Shards of 2 on cuda:0, cuda:1\nshard 2 [1, 2]\ntensor([[0.5324, 1.0000]])\nshard 3 [0]\ntensor([])"
    assert "grad" not in draw.text([TENSORS["with a gradient"]], [0], ["cpu"])


def test_heat_is_about_zero():
    matrix = torch.zeros(20, 20)
    matrix[0, 0], matrix[1, 0], matrix[2, 0] = 4.0, -4.0, NAN
    picture = heat_maps(draw.tiles([matrix], [0], ["cpu"]))[0]
    assert picture.size == (20, 20)
    assert picture.getpixel((0, 0)) == (*heat.ABOVE, 250) and picture.getpixel((0, 1)) == (*heat.BELOW, 250)
    assert picture.getpixel((0, 2))[:3] == (136, 136, 136)
    assert picture.getpixel((5, 5))[3] == 0, "0 is the page itself, in both themes"


def test_heat_has_one_scale_for_all_shards():
    small, large = heat_maps(draw.tiles([torch.ones(20, 20), torch.full((20, 20), 2.0)], [0, 1], ["cpu"] * 2))[:2]
    assert 0 < small.getpixel((0, 0))[3] < large.getpixel((0, 0))[3] == 250


@pytest.mark.parametrize("place", [(0, 0), (511, 300), (256, 17)])
def test_one_wrong_entry_among_many_stays_visible(place):
    want = torch.zeros(512, 301)
    got = want.clone()
    got[place] = -1.0
    drawing = draw.error_map(got, want)
    picture = heat_maps(drawing)[0]
    assert max(picture.size) <= heat.CELLS
    assert sum(cover > 200 for cover in picture.tobytes()[3::4]) == 1
    assert f"largest error 1 at {list(place)}" in words(drawing)[1]


def test_error_map_says_what_it_found():
    one = torch.ones(2, 2)
    assert words(draw.error_map(one, one))[1] == "equal everywhere: the error is 0"
    assert words(draw.error_map(one * NAN, one))[1] == "not finite at [0, 0]"
    assert words(draw.error_map(one[:0], one[:0]))[1] == "empty: nothing to compare"
    assert "at" not in words(draw.error_map(one + 1e-6, one))[1].split(), "rounding lies elsewhere on another CPU"
    with pytest.raises(ValueError, match=r"got is \[2\] and want \[2, 2\]"):
        draw.error_map(one[0], one)


@pytest.mark.parametrize("how, sign", [("column", "all_gather"), ("row", "all_reduce")])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_split_draws_the_pieces(how, sign, n):
    said = words(cuts.split(X, W, gelu(X @ W), how, n, f="gelu"))
    assert sign in said and {str(rank) for rank in range(n)} <= set(said)
    for part in [*products(X, W, how, n), *cuts.pieces(X, W, how, n)[1], gelu(X @ W)]:
        assert {svg.short(value) for value in part.flatten().tolist()} <= set(said)


def test_products_are_what_the_shards_compute():
    assert torch.equal(torch.cat(products(X, W, "column", 3), 1), X @ W)
    assert torch.equal(sum(products(X, W, "row", 3)), X @ W)


def test_split_says_where_the_nonlinearity_is():
    before = words(cuts.split(X, W, X, "row", 2, f="gelu", when="before"))
    after = words(cuts.split(X, W, X, "row", 2, f="gelu", when="after"))
    assert "P_r = gelu(X_r @ W_r)" in before and "Y = sum" in before
    assert "P_r = X_r @ W_r" in after and "Y = gelu(sum)" in after
    with pytest.raises(ValueError, match="column"):
        cuts.split(X, W, X @ W, "diagonal", 2)


@pytest.mark.parametrize("how", ["column", "row"])
def test_a_shard_without_a_piece_is_drawn_hollow(how):
    marks = [node for node in parse(cuts.split(X, W, X @ W, how, 16)).iter() if node.get("y") in ("0", "1")]
    assert [float(mark.get("fill-opacity", 1)) for mark in marks] == [1.0] * 4 + [0.0] * 12


def test_equal_shapes_have_equal_size_whatever_their_values():
    matrix = torch.tensor([[-11.25, 1000.0], [0.5, 1.0]])
    drawn = parse(cuts.split(torch.ones(2, 2), matrix, torch.zeros(2, 2), "row", 1, [matrix]))
    sizes = {(node.get("width"), node.get("height")) for node in drawn.iter() if node.get("fill-opacity")}
    assert sizes == {("84", "40")}


@pytest.mark.parametrize("how", ["column", "row"])
@pytest.mark.parametrize("side", [4, 40])
def test_the_canvas_stays_where_it_is_as_shards_come_and_go(how, side):
    X, W = torch.ones(2, side), torch.ones(side, side)
    boxes = {parse(cuts.split(X, W, X @ W, how, n, want=X @ W)).get("viewBox") for n in range(1, 17)}
    boxes |= {parse(cuts.split(X, W, X @ W, how, n, want=W[:2], matches=False)).get("viewBox") for n in (1, 2, 16)}
    assert len(boxes) == 1


def test_what_does_not_fit_is_told_beside_the_baseline():
    said = words(cuts.split(X, W, X @ W + 1, "row", 2, want=X @ W, matches=False))
    assert {"baseline", "Y - baseline", "up to 1"} <= set(said) and said.count("1") >= 8
    assert "0, up to rounding" in words(cuts.split(X, W, X @ W, "row", 2, want=X @ W))
    drawing = cuts.split(X, W, X @ W + 1, "row", 2, want=X @ W, matches=False)
    assert "They differ by up to 1." in parse(drawing).get("aria-label")


def test_deal_keeps_each_shard_with_its_device():
    assert words(draw.deal(["a", "b", "a"])) == ["a", "shard 0", "shard 2", "b", "shard 1"]
    assert words(draw.deal(["a"], room=["a", "b"])) == ["a", "shard 0", "b", "idle"]


@pytest.mark.parametrize("size, n", [(10, 3), (3, 5), (8, 4), (64, 16), (1, 1)])
def test_every_way_keeps_every_column_and_draws_every_shard(size, n):
    for way in WAYS:
        found = shares(size, n, way)
        assert len(found) == n and sum(real for real, _ in found) == size
    assert [real for real, _ in shares(size, n, "tensor_split")] == list(map(len, torch.empty(size).tensor_split(n)))
    assert len({sum(piece) for piece in shares(size, n, "pad")}) == 1
    label = parse(gantt(size, n)).get("aria-label")
    assert len(re.findall(r"shard \d+ works", label)) == 3 * n


def test_the_lanes_stay_where_they_are_as_columns_come_and_go():
    assert len({parse(gantt(size, 5, way)).get("viewBox") for size in (1, 17, 64) for way in WAYS}) == 1


def test_padding_and_waiting_are_hatched():
    hatched = [node.get("stroke") for node in parse(gantt(6, 4)).iter() if node.get("d", "").count("M") > 1]
    assert (
        hatched.count(svg.colour(3)) >= 1 and hatched.count("#888") == 3
    )  # two shards wait in one way, one in the other


def luminance(colour):
    channels = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), channels, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb(colour):
    colour = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]


def over(top, below, alpha):
    return [alpha * a + (1 - alpha) * b for a, b in zip(top, below, strict=True)]


@pytest.mark.parametrize("rank", [0, 1, 2, 3, None])
def test_text_reads_on_its_tile_in_both_themes(rank):
    header = parse("<g>" + svg.badge(0, 0, 9, "x", rank) + "</g>")
    assert contrast(rgb(header[0].get("fill")), rgb(header[1].get("fill"))) >= 4.5
    tiles = [svg.frame(0, 0, 9, 9, rank)]
    tiles += [svg.badge(0, 0, 9, "x", rank + 4)] if rank is not None else []
    for tile in (parse(f"<g>{tile}</g>")[0] for tile in tiles):
        paint, tint = rgb(tile.get("fill")), float(tile.get("fill-opacity"))
        for page, ink in (rgb("#fff"), over(rgb("#000"), rgb("#fff"), 0.87)), (rgb("#111"), rgb("#fff")):
            assert contrast(over(paint, page, tint), ink) >= 4.5
            assert contrast(paint, page) >= (3 if rank is not None and rank != 3 else 2.8)


def test_colour_is_never_the_only_sign():
    for part in (lambda rank: svg.frame(0, 0, 80, 20, rank), lambda rank: svg.badge(0, 0, 80, "a shard", rank)):
        boxes = [parse(f"<g>{part(rank)}</g>")[0] for rank in range(16)]
        assert len({(box.get("fill"), box.get("stroke"), box.get("stroke-dasharray")) for box in boxes}) == 16


def test_drawing_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    for redraw in (*DRAWINGS.values(), lambda: cuts.split(X, W[:1], X, "row", 2), lambda: draw.error_map(X, W)):
        with contextlib.suppress(RuntimeError, ValueError):
            redraw()
        assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_time_of_a_redraw(record_property):
    big = torch.ones(32, 512), torch.ones(512, 512), torch.ones(32, 512)
    for what, redraw in {
        "8 tiles of values": lambda: draw.tiles([X] * 8, range(8), ["cpu"] * 8),
        "a split of values": lambda: cuts.split(X, W, X, "row", 2),
        "a split of 512 x 512": lambda: cuts.split(*big, "row", 4),
    }.items():
        start = time.perf_counter()
        for _ in range(9):
            redraw()
        record_property(what, f"{(time.perf_counter() - start) / 9 * 1e3:.1f} ms")
