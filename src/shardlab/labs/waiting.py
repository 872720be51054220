"""A bar that fills below a cell while it measures."""

from html import escape

from IPython.display import DisplayHandle


def progress(items, what):
    """Go over `items`, and show how many of them are done: on the page as a bar, and at the end in words. (A widget's
    bar would be 'model not found' where the notebook is opened again.)"""
    items, shown = list(items), DisplayHandle()
    shown.display(bar(0, len(items), what), raw=True)
    for done, item in enumerate(items, 1):
        yield item
        shown.update(bar(done, len(items), what), raw=True)


def bar(done, count, what):
    """So many of `count` done, as Jupyter wants it.

    >>> bar(2, 9, "sizes")["text/html"]
    '<label>2 of 9 sizes measured <progress value="2" max="9"></progress></label>'
    >>> bar(9, 9, "sizes")["text/html"]
    '9 of 9 sizes measured'
    """
    words = f"{done} of {count} {what} measured"
    element = f'<label>{escape(words)} <progress value="{done}" max="{count}"></progress></label>'
    return {"text/plain": words, "text/html": element if done < count else escape(words)}
