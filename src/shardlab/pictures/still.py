"""Pictures that last: a drawing as an `<img>`, which is shown also where inline SVG is not; strings in, strings out.

A notebook that is not trusted, GitHub and whatever else cleans HTML take `<svg>` out of it and leave an `<img>` in. A
picture in an `<img>` sees nothing of the page around it, so it brings a card of its own, and two sets of colours. It
takes the set that the page's `color-scheme` asks for (JupyterLab sets that to its theme's, an untrusted page's too), or
else the reader's browser; and either card reads on either page.
"""

import base64
import re
from html import unescape

PAD = 10  # the card is wider than the drawing by this much on each side
LIGHT = "--jp-layout-color0:#fff;--jp-content-font-color1:#1c1c1c"  # what `svg.svg` and `heat.heat` ask JupyterLab for
DARK = "--jp-layout-color0:#111;--jp-content-font-color1:#f0f0f0"
COLOURS = f"<style>:root{{{LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{DARK}}}}}</style>"
DRAWING = re.compile(r"<svg\b([^>]*)>(.*?)</svg>", re.S)


def carded(drawing):
    """Put a drawing, an inline `<svg>` as `svg.svg` makes it, on its card: so it can stand in a file of its own."""
    head, body = DRAWING.fullmatch(drawing).groups()
    left, top, width, height = map(float, _attribute(head, "viewBox").split())
    card = left - PAD, top - PAD, width + 2 * PAD, height + 2 * PAD
    head = re.sub(r'viewBox="[^"]*"', 'viewBox="{:g} {:g} {:g} {:g}"'.format(*card), head)
    head = re.sub(r'\bwidth="[^"]*"', 'width="{2:g}" height="{3:g}"'.format(*card), head)
    page = '<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" rx="8" style="fill:var(--jp-layout-color0)"/>'
    return f"<svg{head}>{COLOURS}{page.format(*card)}{body}</svg>"


def still(drawing):
    """Turn one drawing into an `<img>` that holds it on its card, with the same words as its alt text.

    >>> from shardlab.pictures import svg
    >>> still(svg.svg((svg.rect(0, 0, 80, 40), 80, 40), "a frame"))[:37]
    '<img alt="a frame" width="104" style='
    """
    picture = carded(drawing)
    alt, width = _attribute(picture, "aria-label"), float(_attribute(picture, "width"))
    shape = f'width="{width:g}" style="max-width:100%;min-width:{0.75 * width:.0f}px;height:auto"'
    return f'<img alt="{alt}" {shape} src="data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}">'


def stills(html):
    """Turn every drawing in a piece of HTML into a still."""
    return DRAWING.sub(lambda found: still(found[0]), html)


def words(html):
    """Say in plain text what a piece of HTML shows: its sentences, and the words of each drawing.

    >>> words('<p><b>Match.</b> All is well.</p><svg aria-label="1 &lt; 2"><path d=""/></svg>').split("\\n")
    ['Match. All is well.', '1 < 2']
    """
    spoken = DRAWING.sub(lambda found: f"\n{_attribute(found[1], 'aria-label')}\n", html)
    spoken = re.sub(r"<[^>]+>", " ", re.sub(r"</(p|div|tr|li)>|<br>", "\n", spoken))
    lines = (" ".join(unescape(line).split()) for line in spoken.split("\n"))
    return "\n".join(line for line in lines if line)


class Picture:
    """HTML with drawings that shows itself in a cell, as stills; `data` is the HTML."""

    def __init__(self, data):
        self.data = data

    def __repr__(self):
        return words(self.data)

    def _repr_html_(self):
        return stills(self.data)


def _attribute(head, name):
    return re.search(rf'\b{name}="([^"]*)"', head)[1]
