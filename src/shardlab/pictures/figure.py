"""What the matplotlib figures share: the style, and how a figure shows itself in a cell, in the colours of the page."""

import functools
import io
import re
from html import escape

import matplotlib.style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as _Figure

from shardlab.pictures.heat import ABOVE, BELOW
from shardlab.pictures.still import still

INK = "#010203"  # stands for the colour of the page's text until the drawing is there
ends = [[*(c / 255 for c in colour), alpha] for colour, alpha in ((BELOW, 1), (BELOW, 0), (ABOVE, 0), (ABOVE, 1))]
HEAT = LinearSegmentedColormap.from_list("purple-amber", list(zip((0, 0.5, 0.5, 1), ends, strict=True)))
STYLE = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib: the same widths everywhere
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#888",
    "grid.alpha": 0.35,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "svg.fonttype": "none",  # words stay words
    "svg.hashsalt": "shardlab",  # the same bytes each time
    **dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], INK),
}


def styled(draw):
    """Draw in the course's own style, whatever the reader has set for matplotlib."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        with matplotlib.style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return styled


class Figure(_Figure):
    """A matplotlib figure that shows itself without pyplot, as a still, and says what it shows: `alt`."""

    alt = ""

    @property
    @styled  # ticks get their labels only when they are drawn
    def data(self):
        """Give the figure as an inline `<svg>`, in the colour of the text around it."""
        file = io.StringIO()
        FigureCanvasSVG(self)
        self.savefig(file, format="svg", dpi=60, transparent=True, metadata={"Date": None, "Creator": None})
        found = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>(.*)</svg>', file.getvalue(), re.S)
        width = float(found[1].split()[2])
        head = f'role="img" aria-label="{escape(self.alt)}" viewBox="{found[1]}" width="{width * 4 / 3:.0f}"'
        body = found[2].replace(INK, "currentColor")
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {spaces} {head} style="color:var(--jp-content-font-color1,currentColor)">{body}</svg>'

    def __repr__(self):
        return self.alt

    __str__ = __repr__

    def _repr_html_(self):
        return still(self.data)
