"""Why a function before the reduction is wrong: f as a curve, with the partial sums and the results drawn on it.

Two drawings on the same axes. `one_output`: the n partial sums of one output lie on f, their mean lies beside it, and
the line from 0 through the mean, followed to the sum, ends at the sum of f. `many_outputs`: where that leaves each of
many outputs, and where f would have it.
"""

from shardlab.pictures import svg
from shardlab.pictures.axes import Axis, area
from shardlab.pictures.svg import line, path, text

LEFT, TOP, SIDE, TALL = 42, 44, 320, 260  # the plotting area
RIGHT, WRONG = svg.COLOURS[0], svg.COLOURS[1]


def one_output(curve, parts, values, right, box, name):
    """Draw one output: `values` are f of its partial sums `parts`, `right` is f of their sum, `box` the range of both.

    `curve` is a list of points (x, f(x)) and `box` is (x low, x high, y low, y high).

    >>> drawing = one_output([(-1, 0), (0, 0), (1, 1)], [-0.5, 1.0], [0.0, 1.0], 0.5, (-1, 1, 0, 1), "relu")
    >>> "sum of relu: 1.00, wrong" in drawing
    True
    """
    (x, y), count, total, wrong = axes(box), len(parts), sum(parts), sum(values)
    mean = total / count, wrong / count
    off = abs(wrong - right) > 1e-4 * (1 + abs(right))
    said = f"sum of {name}: {wrong:.2f}" + ", wrong" * off
    body = [
        area(x, y, "One output", "a partial sum, or the sum", name),
        drawn(curve, x, y),
        line(x(0), y(0), x(total), y(wrong), stroke=WRONG, stroke_width=1.5, stroke_dasharray="5 4"),
        line(x(total), y(right), x(total), y(wrong), stroke=WRONG, stroke_width=5, stroke_opacity=0.45),
        *(ring(x(a), y(b)) for a, b in zip(parts, values, strict=True)),
        diamond(x(mean[0]), y(mean[1])),
        cross(x(total), y(wrong)),
        disc(x(total), y(right)),
        keys(
            (ring, f"{name} of {'each of ' * (count > 1)}the {count} partial sum{'s' * (count > 1)}"),
            (diamond, f"their mean; {count} times as far out is the sum"),
            (disc, f"{name} of the sum: {right:.2f}, right"),
            (cross, said),
        ),
    ]
    label = f"{name} as a curve; on it the {count} partial sums of one output, {total:.2f} together. "
    return finished(body, f"{label}{name} of the sum is {right:.2f}; {said}.")


def many_outputs(curve, sums, wrongs, box, name, shards):
    """Draw many outputs: each a cross at its sum and at the sum of f that is there instead of f of the sum."""
    x, y = axes(box)
    inside = [(a, b) for a, b in zip(sums, wrongs, strict=True) if x.holds(a)]
    crosses = "".join(f"M{x(a) - 2.5:.1f} {y(b) - 2.5:.1f}l5 5m0 -5l-5 5" for a, b in inside)
    body = [
        area(x, y, f"{len(inside)} outputs", "the sum", f"sum of {name}"),
        drawn(curve, x, y),
        path(crosses, stroke=WRONG, stroke_width=1.2),
        keys((stroke, f"{name} of the sum: where all belong"), (cross, f"where {shards} shards leave each output")),
    ]
    said = f"{len(inside)} outputs: the sum of {name} over {shards} shards against the sum, beside the curve of {name}"
    return finished(body, said)


def axes(box):
    return Axis(box[0], box[1], LEFT, LEFT + SIDE), Axis(box[2], box[3], TOP + TALL, TOP)


def finished(body, label):
    return svg.svg(("".join(body), LEFT + SIDE + 8, TOP + TALL + 124), label)


def drawn(curve, x, y):
    """The curve of f, and the axes through 0."""
    points = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in curve if y.holds(b))
    zero = [line(x(0), TOP, x(0), TOP + TALL, stroke="#888"), line(LEFT, y(0), LEFT + SIDE, y(0), stroke="#888")]
    return "".join(zero) + path(f"M{points}", fill="none", stroke=RIGHT, stroke_width=2.5)


def keys(*rows):
    """What each mark means, a line each, below the plot."""
    top = TOP + TALL + 54
    return "".join(
        mark(LEFT + 8, top + 19 * i) + text(LEFT + 26, top + 4 + 19 * i, said, "start")
        for i, (mark, said) in enumerate(rows)
    )


def ring(x, y):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="currentColor" fill-opacity="0.25" stroke="currentColor"/>'


def disc(x, y):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{RIGHT}" stroke="#fff"/>'


def diamond(x, y):
    return path(f"M{x:.1f} {y - 7:.1f}l6 7l-6 7l-6 -7z", fill=svg.COLOURS[2], stroke="#fff")


def cross(x, y):
    return path(f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10", stroke=WRONG, stroke_width=3)


def stroke(x, y):
    return line(x - 8, y, x + 8, y, stroke=RIGHT, stroke_width=2.5)
