"""A layer forward and backward: a lane of values above, the lane of their gradients below, and twins joined by a line,
as inline SVG.

Values and operations take turns, from left to right; under each value stands its gradient, under each operation what it
does backward. `step` counts along the way there and back again: what lies beyond is drawn faint.
"""

from dataclasses import dataclass

from shardlab.pictures import svg
from shardlab.pictures.svg import CHAR, badge, colour, frame, hatch, line, path, rect, text

LEFT, BOX, STEP = 26, 76, 44  # the widths of the ranks' badges, of a value, and of an operation
HIGH, ABOVE, GAP, BELOW = 64, 70, 118, 54  # the heights of a lane, of its labels, of the room between the lanes
WEIGHT = 40  # and of a weight's gradient
PITCH = BOX + STEP
WRONG = "#D55E00"
LOOKS = {  # of a kind's badge: its colour and its line
    "replicated": ("#0072B2", ""),
    "cut": ("#009E73", "6 3"),
    "partial": ("#D55E00", "2 2"),
    "none": ("#CC79A7", "8 2 2 2"),
}
LETTERS = {  # the kinds of a value and of its gradient, and the letter for both
    ("replicated", "partial"): "R",
    ("replicated", "replicated"): "I",
    ("cut", "cut"): "V",
    ("partial", "replicated"): "P",
}
LEGEND = "I both replicated · R replicated, gradient partial · V both cut · P partial, gradient replicated"


@dataclass(frozen=True)
class Value:
    """What the shards hold: its `name`, its measured `kind`, how far it is `off` from what it is to be ("" if it is
    right), and the share of the whole that each shard has, where it is cut."""

    name: str
    kind: str
    off: str
    shares: tuple


@dataclass(frozen=True)
class Operation:
    """What stands between two values: its `name` and that of its `backward`; of a collective, what moves `there` and
    `back`, and in a few words the `trouble` with it, if there is some."""

    name: str
    backward: str
    there: str = ""
    back: str = ""
    trouble: str = ""

    @property
    def collective(self):
        return bool(self.there)


def letter(value, grad):
    """R, I, V or P of a value and its gradient; "?" where they do not belong together.

    >>> whole, part = Value("x", "replicated", "", (1, 1)), Value("dx", "partial", "", (1, 1))
    >>> letter(whole, part), letter(whole, whole), letter(part, part)
    ('R', 'I', '?')
    """
    return LETTERS.get((value.kind.split()[0], grad.kind.split()[0]), "?")


def there_and_back(values, operations, grads, weights, step, alt):
    """Draw the way of `values` through `operations` and that of `grads` back, as far as `step`.

    `values` and `grads` are from left to right; `weights` are the gradients of the weights, by the number of their
    operation. Steps: the first value is there at 0, the last at len(operations), its gradient comes next, and so on.
    """
    count = len(operations)
    forward, backward = ABOVE, ABOVE + HIGH + GAP
    parts = [_ranks(len(values[0].shares), y) for y in (forward, backward)]
    for place, (value, grad) in enumerate(zip(values, grads, strict=True)):
        x, back = LEFT + place * PITCH, 2 * count + 1 - place
        parts.append(_value(value, x, forward, True, step >= place))
        parts.append(_value(grad, x, backward, False, step >= back))
        if step >= back:
            parts.append(_letter(letter(value, grad), x + BOX / 2, forward + HIGH + GAP / 2))
    for place, operation in enumerate(operations):
        x, there, back = LEFT + place * PITCH + BOX, place + 1, 2 * count + 1 - place
        parts.append(_later(_arrows(len(values[0].shares), x, forward, 1, operation.there), step < there))
        parts.append(_later(_arrows(len(values[0].shares), x, backward, -1, operation.back), step < back))
        draw = _twins if operation.collective else _operation
        parts.append(draw(operation, x + STEP / 2, forward + HIGH, backward, step >= there, step >= back))
        if place in weights:
            x, y = x + STEP / 2 - BOX / 2, backward + HIGH + BELOW
            parts.append(_weight(weights[place], x, y, backward + HIGH, step >= back))
    wide, low = LEFT + count * PITCH + BOX, backward + HIGH + BELOW
    for y, said in ((10, "forward →"), (low + 12, "← backward")):
        parts.append(text(0, y, said, "start", font_weight=700))
    parts.append(text(0, low + 72, LEGEND, "start"))
    return svg.svg(("".join(parts), wide, low + 78), alt)


def _later(body, later):
    return f'<g opacity="0.4">{body}</g>' if later else body


def _ranks(n, y):
    lane = HIGH / n
    return "".join(badge(0, y + r * lane + 1, LEFT - 8, r, r, height=lane - 2) for r in range(n))


def _value(value, x, y, above, seen):
    """The shards' bars in a lane, with name, badge and mark above it or below; before it is seen, its outline."""
    low = y - 50 if above else y + HIGH + 4
    name_y, badge_y = (low + 10, low + 16) if above else (low + 44, low + 2)
    if not seen:
        return _later(_outlines(value, x, y, HIGH) + text(x + BOX / 2, name_y, value.name), True)
    return _bars(value, x, y, HIGH) + _named(value, x, name_y) + _badge(value.kind, x, badge_y)


def _outlines(value, x, y, high):
    """In the lane of each shard the outline of the whole."""
    lane = high / len(value.shares)
    look = {"stroke": "#888", "stroke_opacity": 0.6, "stroke_dasharray": "2 3"}
    return "".join(rect(x, y + r * lane + 1, BOX, lane - 2, **look) for r in range(len(value.shares)))


def _named(value, x, y):
    mark, tone = (f"✗ {value.off}", {"fill": WRONG}) if value.off else ("✓", {})
    return text(x + BOX / 2, y, f"{value.name} {mark}", font_weight=700, **tone)


def _badge(kind, x, y):
    """A kind in words, in at most two lines."""
    paint, dash = LOOKS[kind.split()[0]]
    more = {"stroke_dasharray": dash} if dash else {}
    words = kind.split()
    lines = [kind] if len(kind) * CHAR < BOX else [" ".join(words[:2]), " ".join(words[2:])]
    box = rect(x, y, BOX, 29, stroke=paint, stroke_width=2, rx=8, **more)
    first = y + (19 if len(lines) == 1 else 12)
    return box + "".join(text(x + BOX / 2, first + 13 * place, said) for place, said in enumerate(lines))


def _bars(value, x, y, high):
    """In the lane of each shard what it has of the whole."""
    lane, parts, before = high / len(value.shares), [_outlines(value, x, y, high)], 0.0
    for r, share in enumerate(value.shares):
        top, tall = y + r * lane + 1, lane - 2
        if value.kind == "cut along dim 0":
            parts.append(frame(x + 1, top + tall * before, BOX - 2, max(tall * share, 2), r, tint=0.45))
        elif value.kind.startswith("cut"):
            parts.append(frame(x + BOX * before, top, max(BOX * share, 2), tall, r, tint=0.45))
        else:
            parts.append(frame(x + 1, top, BOX - 2, tall, r, tint=0.45 if value.kind == "replicated" else 0.08))
            if value.kind == "partial":
                parts.append(hatch(x + 1, top, BOX - 2, tall, 7, stroke=colour(r)))
            elif value.kind != "replicated":
                middle, cross = top + tall / 2, min(tall / 2 - 2, 5)
                arm = 2 * cross
                d = f"M{x + BOX / 2 - cross:g} {middle - cross:g}l{arm:g} {arm:g}m0 -{arm:g}l-{arm:g} {arm:g}"
                parts.append(path(d, stroke=WRONG, stroke_width=2.5))
        before += share
    return "".join(parts)


def _arrows(n, x, y, way, moves):
    """An arrow in each lane, to the right or to the left; a bar across them where bytes move."""
    lane, parts = HIGH / n, []
    for r in range(n):
        middle = y + (r + 0.5) * lane
        tip = x + STEP - 6 if way > 0 else x + 6
        parts.append(line(x + 6, middle, x + STEP - 6, middle, stroke="#888"))
        parts.append(path(f"M{tip - 5 * way} {middle - 3:g}l{5 * way} 3l{-5 * way} 3", fill="none", stroke="#888"))
    if "bytes" in moves:
        parts.append(rect(x + STEP / 2 - 4, y - 3, 8, HIGH + 6, "currentColor"))
    return "".join(parts)


def _operation(operation, x, top, bottom, there, back):
    """A product or a function: its name under the upper lane, that of its backward over the lower one."""
    thin = line(x, top + 22, x, bottom - 20, stroke="#888", stroke_dasharray="2 4")
    names = [(top + 16, operation.name, there), (bottom - 9, operation.backward, back)]
    return thin + "".join(_later(text(x, y, said), not seen) for y, said, seen in names)


def _twins(operation, x, top, bottom, there, back):
    """A collective and its twin, as two circles with a line between, and what each of them moves."""
    tone = {"stroke": WRONG, "stroke_dasharray": "5 4"} if operation.trouble else {"stroke": "currentColor"}
    parts = [line(x, top + 30, x, bottom - 30, stroke_width=3, **tone)]
    if operation.trouble:
        parts.append(text(x + 8, top + 46, operation.trouble, "start", fill=WRONG, font_weight=700))
    ends = [(top + 18, top + 14, operation.there, there), (bottom - 18, bottom - 22, operation.back, back)]
    for y, first, said, seen in ends:
        inside = text(x, y + 5, operation.name, font_weight=700, font_size=15, font_style="italic")
        circle = f'<circle cx="{x:g}" cy="{y:g}" r="12" fill="none" stroke-width="2" {_attributes(tone)}/>'
        words = [text(x + 18, first + 14 * i, part, "start") for i, part in enumerate(lines(said))]
        parts.append(_later(circle + inside + "".join(words), not seen))
    return "".join(parts)


def lines(said):
    """Words in two lines: before and after the comma, or the first word and the others."""
    return said.split(", ") if ", " in said else said.split(" ", 1)


def _attributes(tone):
    return " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in tone.items())


def _letter(said, x, y):
    tone = {"fill": WRONG} if said == "?" else {}
    return text(x, y + 7, said, font_size=20, font_weight=700, **tone)


def _weight(value, x, y, lane, seen):
    """The gradient of a weight, under the lane that it comes from."""
    if not seen:
        return _later(_outlines(value, x, y, WEIGHT) + text(x + BOX + 8, y + 9, value.name, "start"), True)
    arrow = line(x + BOX / 2, lane + 4, x + BOX / 2, y - 4, stroke="#888")
    arrow += path(f"M{x + BOX / 2 - 3:g} {y - 9:g}l3 5l3 -5", fill="none", stroke="#888")
    labels = _named(value, x + BOX + 8, y + 9) + _badge(value.kind, x + BOX + 8, y + 14)
    return arrow + _bars(value, x, y, WEIGHT) + labels
