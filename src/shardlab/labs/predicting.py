"""A prediction: a question, some answers, and the picture only once the learner has committed to one of them."""

from html import escape

import ipywidgets as widgets

from shardlab.labs.lab import one_thread, said, trouble


class Prediction(widgets.VBox):
    """A question with radio buttons and a Commit button; see `predict`."""

    def __init__(self, question, options, reveal, answer=None):
        options = list(options)
        if answer is not None and answer not in options:
            raise ValueError(f"the answer {answer!r} is not among the options {options}")
        self.reveal, self.answer = reveal, answer
        self.choice = widgets.RadioButtons(
            options=options, value=None, description="Your prediction", layout={"width": "max-content"},
            style={"description_width": "initial"},
        )  # fmt: skip
        self.button = widgets.Button(description="Commit", disabled=True, tooltip="Choose an answer first")
        self.screen = widgets.HTML(layout={"width": "100%", "overflow": "auto hidden"})
        asked = widgets.HTML(f'<p style="margin:4px 0;line-height:1.5"><b>{escape(question)}</b></p>')
        super().__init__([asked, self.choice, self.button, self.screen])
        self.choice.observe(self.chosen, "value")
        self.button.on_click(self.commit)

    def chosen(self, _change):
        """An answer is chosen: it can be committed to."""
        self.button.disabled = False
        self.button.tooltip = "Commit to this answer and see"

    def commit(self, _button=None):
        """Keep the answer, and show what happens. The button stays, since the keyboard's focus is on it."""
        self.button.on_click(self.commit, remove=True)
        self.choice.disabled, self.button.description = True, "Committed"
        answer = self.screen.value = spoken(self.choice.value, self.answer)
        try:
            with one_thread():
                self.screen.value = answer + html_of(self.reveal)
        except Exception as error:  # nobody sees what a click raises
            self.screen.value = answer + trouble(error)

    def __repr__(self):
        return f"Prediction({list(self.choice.options)})"


def predict(question, options, reveal, answer=None):
    """Ask for a prediction, and show `reveal` once the learner has committed to one of the `options`.

    `reveal` is HTML, anything that shows itself in a notebook (a picture, a Shards, a figure), or a function without
    arguments that returns one of these and runs only then. `answer` is the right option, if one is: then what the
    learner said is held against it.
    """
    return Prediction(question, options, reveal, answer)


def spoken(choice, answer):
    if answer is None:
        return said(None, f"You said: {choice}.")
    if choice == answer:
        return said(True, f"You said: {choice}.", "So it is.")
    return said(False, f"You said: {choice}.", f"It is: {answer}.")


def html_of(shown):
    """The HTML of something that shows itself in a notebook."""
    if callable(shown):
        shown = shown()
    if isinstance(shown, str):
        return shown
    if hasattr(shown, "_repr_mimebundle_"):
        return shown._repr_mimebundle_()["text/html"]
    return shown._repr_html_() if hasattr(shown, "_repr_html_") else f"<pre>{escape(repr(shown))}</pre>"
