"""What the matplotlib figures share: the style, the heat colours, and how a figure shows itself in a cell."""

import base64
import functools
import io
from html import escape

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as _Figure

from shardlab.pictures.svg import ABOVE, BELOW

HEAT = LinearSegmentedColormap.from_list(
    "purple-amber", [[c / 255 for c in BELOW], (1, 1, 1), [c / 255 for c in ABOVE]]
)
STYLE = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib: the same letters everywhere
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#ddd",
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
}


def styled(draw):
    """Draw in the course's own style, whatever the reader has set for matplotlib."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        with matplotlib.style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return styled


class Figure(_Figure):
    """A matplotlib figure that shows itself without pyplot, on a white card, and says what it shows."""

    alt = ""

    @styled  # ticks get their labels only when they are drawn
    def png(self, dpi=150):
        """Give the figure as the bytes of a PNG file, the same bytes each time."""
        file = io.BytesIO()
        FigureCanvasAgg(self)
        self.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        return file.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = base64.b64encode(self.png()).decode()
        shape = f'width="{self.get_figwidth() * 96:.0f}" style="max-width:100%;height:auto;border-radius:8px"'
        html = f'<img alt="{escape(self.alt)}" {shape} src="data:image/png;base64,{data}">'
        return {"text/html": html, "text/plain": self.alt}


def heat(axes, matrix, scale, **more):
    """Draw a small matrix as a heat map about 0 in which `scale` has the full colour."""
    look = {"vmin": -(scale or 1), "vmax": scale or 1, "interpolation": "nearest"}
    return axes.imshow(matrix.tolist(), HEAT, **look | more)
