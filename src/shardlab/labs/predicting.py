"""A prediction: a question, some answers, and what happens only once the learner has committed to one of them."""

from dataclasses import dataclass
from html import escape

import ipywidgets as widgets

from shardlab.labs.lab import Kept, one_thread, said, trouble
from shardlab.labs.lab01_split import split_picture
from shardlab.labs.lab02_before_reduction import before_reduction_picture
from shardlab.labs.lab03_tolerance import tolerance_picture
from shardlab.labs.lab04_uneven import uneven_picture
from shardlab.labs.lab05_mlp import mlp_picture
from shardlab.labs.lab06_backward import backward_picture
from shardlab.labs.lab07_heads import heads_picture
from shardlab.labs.lab08_vocabulary import vocabulary_picture
from shardlab.labs.lab09_sequence import sequence_picture
from shardlab.labs.lab10_memory import memory_picture
from shardlab.labs.lab11_ring import ring_picture
from shardlab.labs.lab12_pays import pays_picture
from shardlab.labs.lab13_gates import gates_picture


@dataclass(frozen=True)
class Question:
    """What is asked, the answers to choose from, the right one (if one is), why, and what shows it."""

    asked: str
    options: tuple[str, ...]
    answer: str | None = None
    because: str = ""
    shown: object = None  # HTML, what shows itself in a notebook, or a function that returns one of these

    def __post_init__(self):
        if self.answer is not None and self.answer not in self.options:
            raise ValueError(f"the answer {self.answer!r} is not among the options {[*self.options]}")


LESSONS: dict[str, Question] = {  # here, and not in the notebooks, where the answer would be read before the choice
    "00": Question(
        "Four shards, one device: what happens?",
        ("an error", "the shards are simulated", "all four are computed, in turn, on that device"),
        "all four are computed, in turn, on that device",
        "Real tensors, real arithmetic, real sums between them. Only the wires are missing, and their delays.",
    ),
    "01": Question(
        "When does the order of the GELU and the joining matter?",
        ("never", "when W is cut by columns", "when W is cut by rows", "always"),
        "when W is cut by rows",
        "A column of Y is finished on one shard. By rows, each shard has a part of every sum, and a GELU of the parts "
        "is not the GELU of the sum.",
        lambda: split_picture("row", when="before"),
    ),
    "02": Question(
        "From 2 to 16 shards, the error of ...",
        (
            "GELU and ReLU: both shrink",
            "both level off",
            "GELU levels off, ReLU keeps growing",
            "both keep growing",
        ),
        "GELU levels off, ReLU keeps growing",
        "Sixteen partial sums are small, so all of them lie close to zero. There GELU is nearly a straight line, and "
        "ReLU has its kink.",
        lambda: before_reduction_picture("relu", shards=16),
    ),
    "03": Question(
        "assert_close with its default tolerance says ...",
        ("equal to the last bit", "close", "not close"),
        "not close",
        "Correct code, red test: the same products, added in another order.",
        lambda: tolerance_picture(K=4096),
    ),
    "04": Question(
        "How many pieces does W.chunk(4, dim=1) return?",
        ("4 pieces", "3 pieces", "an error"),
        "3 pieces",
        "Three pieces of two columns each. Nothing complains, and device 3 has no piece.",
        lambda: uneven_picture(6, 4, "chunk"),
    ),
    "05": Question(
        "With the best cuts, how often must the four shards communicate in the forward pass?",
        ("not at all", "once", "twice", "once for each shard"),
        "once",
        "W1 by columns and W2 by rows: each shard has its own hidden features, finished, and its rows of W2 want just "
        "these. Only the partial sums at the end are added.",
        lambda: mlp_picture(layers=2, shards=4),
    ),
    "06": Question(
        "The forward is right. What is the gradient of X that each of the four shards gets?",
        (
            "the whole gradient",
            "its own columns of the gradient",
            "a part of every number in it",
            "four times the gradient",
        ),
        "a part of every number in it",
        "X went into the columns of all four shards, and each sends back what comes through its own. The whole "
        "gradient is the sum of the four, and nobody took it.",
        lambda: backward_picture(shards=4, f="none"),
    ),
    "07": Question(
        "A fused weight holds 8 q heads, then 2 k heads, then 2 v heads. Cut by columns over two shards: what happens?",
        ("it is right", "it stops with an error", "it runs, and is wrong"),
        "it runs, and is wrong",
        "Each shard gets six heads, as many as it wants, and they are not its own: the first half is all q. No shape "
        "tells of it.",
        lambda: heads_picture(cut="as it lies"),
    ),
    "08": Question(
        "The loss of one token, 128,256 logits of it over four shards. How many numbers does a shard tell the others?",
        ("all its logits, 32,064", "three", "one", "none"),
        "three",
        "The largest of its logits, a sum of exponentials, and the target's logit, if it has that: all the rest of a "
        "softmax is its own affair.",
        lambda: vocabulary_picture(tokens=1),
    ),
    "09": Question(
        "Each all-reduce becomes a reduce-scatter and an all-gather. What does a ring send then?",
        ("half the bytes", "as many bytes", "twice the bytes"),
        "as many bytes",
        "A ring's all-reduce is a reduce-scatter and an all-gather. Here there is something between its halves: the "
        "residual and the norm, each shard with its own tokens.",
        sequence_picture,
    ),
    "10": Question(
        "A layer of GPT-3, over eight shards and no longer one. What each of them keeps for backward is ...",
        ("an eighth", "a fifth", "a half", "as much as before"),
        "a fifth",
        "What belongs to heads and hidden features is cut by eight. But the norms, two dropouts and what goes into the "
        "layers are whole on every shard: 23 bytes a number, where there were 114.",
        lambda: memory_picture("GPT-3 175B", shards=8),
    ),
    "11": Question(
        "An all-reduce of 1 GB: how much more must each shard send when 64 shards take part instead of 8?",
        ("8 times as much", "twice as much", "an eighth more", "nothing more"),
        "an eighth more",
        "On a ring each shard sends 2 (n - 1) / n of the value: 1.75 GB with 8 shards, 1.97 GB with 64. What grows "
        "with n is the number of steps, and each of them has a latency.",
        lambda: ring_picture(shards=8, step=9),
    ),
    "12": Question(
        "One GPU decodes 29 tokens a second. Two of them, joined by NVLink, decode 17. What takes so long?",
        (
            "each token waits for many all-reduces, however small they are",
            "the link has too few bytes a second",
            "half a product is not faster than a whole one",
            "the second GPU has to load its weights first",
        ),
        "each token waits for many all-reduces, however small they are",
        "Two all-reduces a layer, 64 for 32 layers. One token is 8 KB in each of them: the bytes cost next to nothing, "
        "the 64 waits more than what half the products save.",
        lambda: pays_picture(shards=8, batch=1),
    ),
    "13": Question(
        "Four ranks meet in an all_reduce. One of them comes late. What do the other three have meanwhile?",
        ("the sum of three, and later that of four", "an error", "nothing: they wait"),
        "nothing: they wait",
        "A collective is a gate that opens when the last one comes. Should it never come, they wait for ever, unless "
        "someone looks after them.",
        lambda: gates_picture(late=20),
    ),
}


class Prediction(Kept):
    """A question with radio buttons and a Commit button; see `predict`."""

    def __init__(self, question):
        self.question = question
        self.choice = widgets.RadioButtons(
            options=question.options, value=None, description="Your prediction", layout={"width": "max-content"},
            style={"description_width": "initial"},
        )  # fmt: skip
        self.button = widgets.Button(description="Commit", disabled=True, tooltip="Choose an answer first")
        self.screen = widgets.HTML(layout={"width": "100%", "overflow": "auto hidden"})
        super().__init__([widgets.HTML(asked(question)), self.choice, self.button, self.screen])
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
        answer = self.screen.value = spoken(self.choice.value, self.question)
        try:
            with one_thread():
                self.screen.value = answer + html_of(self.question.shown)
        except Exception as error:  # nobody sees what a click raises
            self.screen.value = answer + trouble(error)

    def still(self):
        """The question for a page without a kernel, with the answer folded away."""
        return on_paper(self.question)

    def __repr__(self):
        return "\n".join([self.question.asked, *(f"( ) {option}" for option in self.question.options)])


def predict(question, options=None, reveal=None, answer=None):
    """Ask for a prediction, and show what happens once the learner has committed to one of the answers.

    `predict("01")` asks the question of lesson 01. `predict(question, options, reveal)` asks one of your own: `reveal`
    is HTML, anything that shows itself in a notebook (a picture, a Shards, a figure), or a function without arguments
    that returns one of these and runs only then; `answer` is the right option, if one is.
    """
    if options is not None:
        return Prediction(Question(question, tuple(options), answer, shown=reveal))
    if question not in LESSONS:
        raise ValueError(f"lesson {question!r} has no question: {', '.join(LESSONS)} have; one of yours wants options")
    return Prediction(LESSONS[question])


def asked(question):
    return f'<p style="margin:4px 0;line-height:1.5"><b>{escape(question.asked)}</b></p>'


def spoken(choice, question):
    """What the learner said, held against the answer where there is one."""
    if question.answer is None:
        return said(None, f"You said: {choice}.", question.because)
    right = choice == question.answer
    verdict = "So it is." if right else f"It is: {question.answer}."
    return said(right, f"You said: {choice}.", f"{verdict} {question.because}".strip())


def on_paper(question):
    """The question for a page without a kernel: the answers as a list, and the right one folded away."""
    listed = "".join(f"<li>{escape(option)}</li>" for option in question.options)
    fold = "<details><summary>Choose one, then unfold</summary>{}</details>"
    answer = fold.format(said(None, f"It is: {question.answer}.", question.because)) if question.answer else ""
    return f"{asked(question)}<ul>{listed}</ul>{answer}"


def html_of(shown):
    """The HTML of something that shows itself in a notebook; none of None."""
    if callable(shown):
        shown = shown()
    if shown is None or isinstance(shown, str):
        return shown or ""
    if hasattr(shown, "_repr_mimebundle_"):
        return shown._repr_mimebundle_()["text/html"]
    return shown._repr_html_() if hasattr(shown, "_repr_html_") else f"<pre>{escape(repr(shown))}</pre>"
