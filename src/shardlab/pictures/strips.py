"""Right and wrong results in one frame: a cloud of errors each, and the tolerances as lines across. Inline SVG."""

from dataclasses import dataclass

from shardlab.pictures import svg
from shardlab.pictures.axes import Axis, area
from shardlab.pictures.svg import line, path, rect, text

LEFT, TOP, STRIP, GAP, TALL = 50, 30, 92, 14, 340  # a cloud has a strip of its own
DECADES = (-17, 3)  # from below the rounding of float64 to a lost shard of bfloat16, for every state alike
RIGHT, WRONG, OURS = svg.COLOURS[0], svg.COLOURS[1], svg.COLOURS[2]
MARKS = {"right": "h2.6", "lost": "l4 4m0-4l-4 4", "off": "h5m-2.5-2.5v5"}


@dataclass(frozen=True)
class Cloud:
    """The errors of one result, one number per entry: its name, and the kind of mark it is drawn with."""

    name: str
    mark: str  # "right", "lost" or "off"
    errors: list[float]


def strips(clouds, ours, theirs, line_at=None):
    """Draw each cloud in its strip, the largest error of each as a large mark, and the tolerances across all.

    `ours` and `theirs` are tolerances as (lowest, highest) over the entries; `line_at` is one number for all of them.

    >>> drawing = strips([Cloud("right", "right", [1e-6, 0.0])], (1e-3, 2e-3), (1e-5, 1e-4), line_at=1e-2)
    >>> "right: largest error below 1e-5" in drawing
    True
    """
    wide = len(clouds) * (STRIP + GAP) + GAP
    y = Axis(*DECADES, TOP + TALL, TOP, log=True)
    parts = [area(Axis(0, 1, LEFT, LEFT + wide), y, "error of each entry")]
    parts.append(band(y, ours, wide, OURS, ""))
    parts.append(band(y, theirs, wide, "#777", "6 4"))
    for index, cloud in enumerate(clouds):
        parts.append(drawn(cloud, LEFT + GAP + index * (STRIP + GAP), y))
    if line_at is not None:
        parts.append(line(LEFT, y(line_at), LEFT + wide, y(line_at), stroke="currentColor", stroke_width=3))
    parts.append(legend(line_at is not None))
    said = "; ".join(f"{cloud.name}: largest error {svg.about(max(cloud.errors))}" for cloud in clouds)
    limits = f"our tolerance {svg.about(ours[1])}, torch's {svg.about(theirs[1])}"
    more = "" if line_at is None else f", your line {line_at:.1g}"
    label = f"The errors of right and wrong results on one scale. {said}. Across them {limits}{more}."
    return svg.svg(("".join(parts), LEFT + wide + 4, TOP + TALL + 96), label)


def drawn(cloud, left, y):
    """A cloud in its strip, its entries from left to right, its largest error as a large mark, and its name below."""
    paint = RIGHT if cloud.mark == "right" else WRONG
    step, mark = (STRIP - 6) / len(cloud.errors), MARKS[cloud.mark]
    dots = "".join([f"M{left + i * step:.1f} {y(error):.1f}{mark}" for i, error in enumerate(cloud.errors)])
    worst = max(range(len(cloud.errors)), key=cloud.errors.__getitem__)
    at = left + worst * step, y(cloud.errors[worst])
    look = {"stroke": paint, "stroke_width": 2.6 if cloud.mark == "right" else 1.1}
    return (
        path(dots, **look, stroke_opacity=0.9)
        + largest(cloud.mark, *at)
        + text(left + STRIP / 2, TOP + TALL + 18, cloud.name, font_weight=700)
    )


def largest(mark, x, y):
    """The largest error of a cloud: a disc, a cross or a plus."""
    if mark == "right":
        return f'<circle cx="{x + 1.3:.1f}" cy="{y:.1f}" r="5.5" fill="{RIGHT}" stroke="#fff"/>'
    shape = (
        f"M{x - 4:.1f} {y - 4:.1f}l12 12m0 -12l-12 12" if mark == "lost" else f"M{x - 4:.1f} {y:.1f}h13m-6.5 -6.5v13"
    )
    return path(shape, stroke=WRONG, stroke_width=3.5)


def band(y, limits, wide, paint, dash):
    """A tolerance across all strips: from the strictest entry's to the loosest one's."""
    top, bottom = y(limits[1]), y(limits[0])
    dashed = {"stroke_dasharray": dash} if dash else {}
    edges = "".join(line(LEFT, at, LEFT + wide, at, stroke=paint, stroke_width=1.5, **dashed) for at in (top, bottom))
    return rect(LEFT, top, wide, max(bottom - top, 1), paint, fill_opacity=0.25) + edges


def legend(with_line):
    x, top = LEFT, TOP + TALL + 42
    rows = [
        (rect(x, top - 5, 22, 9, OURS, fill_opacity=0.3, stroke=OURS), "our tolerance"),
        (line(x, top + 19, x + 22, top + 19, stroke="#777", stroke_width=2, stroke_dasharray="6 4"), "torch's default"),
    ]
    if with_line:
        rows.append((line(x, top + 38, x + 22, top + 38, stroke="currentColor", stroke_width=3), "your line"))
    return "".join(mark + text(x + 30, top + 4 + 19 * i, said, "start") for i, (mark, said) in enumerate(rows))
