"""Figures that readers may ask again: one function, its controls, a picture of record.

A headless run shows the picture of record only. Where somebody watches, controls stand
below it; what they ask for is drawn below them, and is not kept.
"""

import inspect
from collections.abc import Callable
from typing import Any

from nbutils.core.errors import LabError


def explore(run: Any, show: Callable[..., None], **controls: Any) -> None:
    """Call `show()`, and let whoever watches call it again with other arguments.

    run: the page's `pages.Run`; show: displays something, and has a default for each
    argument, which together are what is of record; controls: what each argument may
    be, in ipywidgets' short forms: a list of values, (low, high, step), or a text. A
    LabError of `show` is one line in place of the picture.
    """
    show()
    if not run.interactive:
        return
    from IPython.display import clear_output, display
    from ipywidgets import Label, Output, VBox, interactive

    knobs, shown = {}, Output()
    for name, argument in inspect.signature(show).parameters.items():
        knob = interactive.widget_from_abbrev(controls[name], argument.default)
        knob.description = name.replace("_", " ")
        knob.style.description_width = "initial"
        if hasattr(knob, "continuous_update"):
            knob.continuous_update = False  # drawn when a slider rests, a text is done
        knobs[name] = knob

    def again(change: object) -> None:
        with shown, run.aside():
            clear_output(wait=True)
            try:
                show(**{name: knob.value for name, knob in knobs.items()})
            except LabError as error:
                print(error)

    for knob in knobs.values():
        knob.observe(again, "value")
    hint = Label("Change a value: it is drawn again below, and the one above stays.")
    display(VBox([hint, *knobs.values(), shown]))
