"""What every lab is made of: controls with labels, and one picture that is drawn again from their values."""

import math
from html import escape

import ipywidgets as widgets
from IPython.display import display

from shardlab.labs.spoken import spoken
from shardlab.pictures.still import Picture as HTML
from shardlab.pictures.still import stills
from shardlab.pictures.svg import one_thread

__all__ = [
    "HTML",
    "Kept",
    "Lab",
    "below",
    "beside",
    "menu",
    "one_thread",
    "said",
    "slider",
    "steps",
    "switch",
    "trouble",
]

# JupyterLab shows the still in the widget's place until the widget is there, and again once no kernel knows it.
TURNS = (
    '<style class="shardlab-still">'
    ".jp-OutputArea-child:has(.shardlab-still):has(+.jp-OutputArea-child .widget-vbox),"
    ".jp-OutputArea-child:has(.shardlab-still)+.jp-OutputArea-child:has(.jupyter-widgets):not(:has(.widget-vbox))"
    "{display:none}</style>"
)


class Kept(widgets.VBox):
    """Widgets that leave a picture in the notebook: who opens it again, without their kernel, sees `self.still()`."""

    def still(self):
        """HTML that says without widgets what they show."""
        raise NotImplementedError

    def _ipython_display_(self):
        (kind, view), *_ = ((k, v) for k, v in self._repr_mimebundle_().items() if k.endswith("widget-view+json"))
        display({"text/html": TURNS + stills(self.still()), "text/plain": repr(self)}, raw=True)
        display({kind: view}, raw=True)


class Lab(Kept):
    """Controls above a picture: whenever a control changes, the picture is `draw(**state)` of their values.

    `controls` maps the names of the state to widgets, `draw` gives HTML. There is nothing else to it: the drawing is
    a pure function of `lab.state`, so any state can be drawn without a browser, and drawn the same.

    >>> count = Lab({"n": slider("n", 2, 1, 4, "how many")}, lambda n: "*" * n)
    >>> count.controls["n"].value = 3
    >>> count, count.screen.value
    (Lab(n=3), '***')
    """

    def __init__(self, controls, draw):
        self.controls, self.draw = controls, draw
        self.screen = widgets.HTML(layout=widgets.Layout(width="100%", overflow="auto hidden"))
        columns = widgets.Layout(
            grid_template_columns="repeat(auto-fill, 268px)", grid_gap="2px 8px", align_items="center"
        )
        rows = [widgets.GridBox([*controls.values()], layout=columns), self.screen, spoken(controls.values())]
        super().__init__(rows, _dom_classes=["shardlab-lab"])
        self.redraw()
        for control in controls.values():
            control.observe(self.changed, "value")

    @property
    def state(self):
        """The value of each control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def still(self):
        return self.screen.value

    def only(self, *names):
        """The lab with these controls alone in sight; the others keep their values. For a first look at it.

        >>> Lab({"n": slider("n", 2, 1, 4, "how many"), "m": slider("m", 2, 1, 4, "more")}, "{n} {m}".format).only("n")
        Lab(n=2, m=2)
        """
        unknown = [name for name in names if name not in self.controls]
        if unknown:
            raise ValueError(f"no control is called {unknown[0]!r}: there are {', '.join(self.controls)}")
        for name, control in self.controls.items():
            control.layout.display = None if name in names else "none"
        return self

    def redraw(self):
        """Draw the picture of the state as it is now."""
        with one_thread():
            self.screen.value = self.draw(**self.state)

    def changed(self, _change):
        """Redraw, or say what went wrong: nobody sees what an observer raises."""
        try:
            self.redraw()
        except Exception as error:
            self.screen.value = trouble(error)

    def __repr__(self):
        return f"Lab({', '.join(f'{name}={value!r}' for name, value in self.state.items())})"


STYLE, WIDE = {"description_width": "88px"}, {"width": "268px"}


def slider(label, value, low, high, tip):
    """A slider over whole numbers."""
    return widgets.IntSlider(value, low, high, description=label, tooltip=tip, style=STYLE, layout=WIDE)


def steps(label, value, options, tip):
    """A slider over the values that are listed (powers of two, say)."""
    return widgets.SelectionSlider(
        options=options, value=value, description=label, tooltip=tip, style=STYLE, layout=WIDE
    )


def menu(label, value, options, tip):
    """A menu; `options` are values, or (label, value) pairs."""
    return widgets.Dropdown(options=options, value=value, description=label, tooltip=tip, style=STYLE, layout=WIDE)


def switch(label, value, options, tip):
    """A row of buttons of which one is down; `options` are values, or (label, value) pairs."""
    style, tips = STYLE | {"button_width": "max-content"}, [tip] * len(options)
    buttons = widgets.ToggleButtons(
        options=options, value=value, description=label, tooltip=tip, tooltips=tips, style=style, layout=WIDE
    )
    return buttons.add_class("widget-inline-hbox")  # label and buttons in one line, as in the other controls


def said(good, verdict, more=""):
    """One line of HTML: a verdict in words (a mark and a colour say it too), then what it rests on.

    `good` is True, False, or None where nothing is judged.
    """
    mark, colour = {True: ("✓ ", "#009E73"), False: ("✗ ", "#D55E00"), None: ("", "#0072B2")}[good]
    return (
        f'<p style="margin:6px 0;padding:2px 10px;border-left:4px solid {colour};line-height:1.5">'
        f"<b>{mark}{escape(verdict)}</b> {escape(more)}</p>"
    )


def beside(*parts):
    """HTML parts side by side, or one under the other where the page is too narrow for that."""
    columns = "repeat(auto-fit,minmax(min(100%,380px),1fr))"
    look = f"display:grid;grid-template-columns:{columns};gap:4px 16px;max-width:860px"
    return f'<div style="{look}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def trouble(error):
    """An exception, as HTML."""
    return said(False, f"{type(error).__name__}:", str(error))


def below(error, floor=0.0):
    """The power of ten that an error stays below: what can be said of rounding on any machine.

    >>> below(3e-7), below(0.0, floor=2e-16)
    ('1e-06', '1e-15')
    """
    worst = max(error, floor)
    return f"1e{math.ceil(math.log10(worst)):+03d}" if worst > 0 else "0"
