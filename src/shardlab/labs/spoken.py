"""Sliders that tell a screen reader their name and their value.

ipywidgets leaves the handle of a slider without a name, and lets it say the index of a listed value, not the value;
what is right stands beside it, as the label and the readout. So a few lines of JavaScript keep the handle to these.
They live in an HTML widget of the lab, which is never stored in a notebook, and run when the browser finds that their
(empty) picture is none.
"""

import ipywidgets as widgets

SCRIPT = """
  const name = slider => {
    const handle = slider.querySelector('[role=slider]'), readout = slider.querySelector('.widget-readout');
    const say = () => handle.getAttribute('aria-valuetext') == readout.textContent
      || handle.setAttribute('aria-valuetext', readout.textContent);
    handle.setAttribute('aria-label', slider.querySelector('.widget-label').textContent);
    new MutationObserver(say).observe(slider, {subtree: true, childList: true, characterData: true, attributes: true});
    say();
  };
  const wait = tries => {
    const lab = this.closest('.shardlab-lab'), found = lab ? [...lab.querySelectorAll('.widget-slider')] : [];
    if (lab && found.length == COUNT) found.forEach(name);
    else if (tries) setTimeout(wait, 50, tries - 1);
  };
  wait(100);
"""


def spoken(controls):
    """The widget that keeps the handles of the sliders among some controls to their labels and readouts."""
    kinds = (widgets.IntSlider, widgets.SelectionSlider)
    script = SCRIPT.replace("COUNT", str(sum(isinstance(control, kinds) for control in controls)))
    return widgets.HTML(f'<img src="data:," alt="" hidden onerror="{" ".join(script.split())}">')
