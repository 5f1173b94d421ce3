"""A notebook's own run: its settings, its files, its figures, its clock, its metrics.

A notebook calls `start`, works, and ends with `Run.finish`.
"""

import base64
import errno
import html
import inspect
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from nbutils.core import machine
from nbutils.core.errors import LabError, known
from nbutils.core.files import atomic, read_json, verify, write_json
from nbutils.core.settings import ROOT, Settings, resolve

PARTS = ("encoding", "training")
HEADLESS = "NBUTILS_HEADLESS"


def start(
    name: str,
    profile: str = "workshop",
    overrides: dict[str, Any] | None = None,
    out: str = "runs",
) -> "Run":
    """Resolve and check the settings of a notebook's run, and say what will happen.

    A relative `out` is under the repository root, which also becomes the working
    folder, so that a page behaves alike from JupyterLab and from the command line.
    LabError for a faulty setting or a machine that cannot do the run.
    """
    settings = resolve(profile, overrides)
    os.chdir(ROOT)
    machine.check_machine(settings)
    os.environ.update(variables := machine.environment(settings))
    hub = sys.modules.get("huggingface_hub.constants")
    if hub and "HF_HUB_OFFLINE" in variables:
        hub.HF_HUB_OFFLINE = True  # it read the environment when it was imported
    run = Run(name, settings, Path(ROOT, out, settings.profile, name))
    needs = ", ".join(machine.network_needs(settings)) or "not needed"
    print(f"{name}: profile {settings.profile}, seed {settings.seed}")
    print(f"writes {_shown(run.folder)}; network: {needs}")
    for key, value in (overrides or {}).items():
        print(f"changed: {key} = {value!r}")
    return run


def make_folder(folder: Path) -> None:
    """Make a run's folder; LabError where that or writing there cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # made by somebody else
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise LabError(
            f"{folder} cannot be written ({error.strerror}): name another --out"
        ) from None


def _shown(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


class Run:
    """One notebook's run: `settings`, its output `folder`, and what it reports."""

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        self.name, self.settings, self.folder = name, settings, folder
        self._seconds = dict.fromkeys(("import", *PARTS), 0.0)
        self._figures: dict[str, dict[str, str]] = {}
        self._aside = False
        self._began = now = time.time()
        # only the first run of a headless kernel owns the time since the kernel began
        headless = os.environ.pop(HEADLESS, "") == "1"
        self.interactive = not headless  # somebody watches: progress bars are welcome
        if headless:
            self._began = psutil.Process().create_time()
            self._seconds["import"] = now - self._began
        make_folder(folder)
        self.path("metrics.json").unlink(missing_ok=True)  # never an older run's

    def path(self, filename: str) -> Path:
        """The path of a file of this notebook's own output folder."""
        path = self.folder / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def input(
        self, notebook: str, filename: str = "", shipped: Path | None = None
    ) -> Path:
        """A file that `notebook` wrote (its folder), else the shipped one; says which.

        Only a run of the same profile and `out` counts that finished, with its
        metrics.json. LabError, naming the notebook to run, where neither exists, and
        for a shipped file that is not as SHA256SUMS lists it.
        """
        folder = self.folder.parent / notebook
        made, metrics = folder / filename, folder / "metrics.json"
        if made.exists() and metrics.is_file():
            theirs, ours = read_json(metrics)["settings"], self.settings.flat()
            other = ", ".join(key for key in ours if theirs.get(key) != ours[key])
            remark = f" (made with another {other})" if other else ""
            print(f"reads {_shown(made)}{remark}")
            return made
        if shipped is not None and shipped.exists():
            verify(shipped)
            state = "has not finished" if made.exists() else "has not run"
            print(f"reads {_shown(shipped)} (shipped; {notebook} {state})")
            return shipped
        state = "is from an unfinished run" if made.exists() else "is missing"
        raise LabError(
            f"{_shown(made)} {state}: run 'python -m nbutils run {notebook} "
            f"--profile {self.settings.profile}' first"
        )

    def figure(self, name: str, plot: tuple[Any, str]) -> None:
        """Save `(figure, description)` as figures/NAME.png and show it.

        The description is the image's alternative text and is printed below it. Within
        `aside()` it is shown only.
        """
        figure, description = plot
        description = " ".join(description.split())
        if not description:
            raise LabError(f"figure {name!r} has no description: say what it shows")
        image, file = _png(figure), f"figures/{name}.png"
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(figure)  # or the inline backend shows it again, without alt
        # JupyterLab shows no alternative text of an image that is not HTML
        source = "data:image/png;base64," + base64.b64encode(image).decode()
        _display(f'<img src="{source}" alt="{html.escape(description)}">', description)
        print(description)
        if not self._aside:
            with atomic(self.path(file)) as temporary:
                temporary.write_bytes(image)
            self._figures[name] = {"name": name, "file": file, "alt": description}

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Figures within are a reader's trials: they are shown, and not kept."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the wall seconds of the block to `part`: "encoding" or "training"."""
        known("part of the time", part, PARTS)
        began, counted = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
        finally:
            inside = sum(self._seconds.values()) - counted
            self._seconds[part] += time.perf_counter() - began - inside

    def seconds(self) -> dict[str, float]:
        """Wall seconds so far: total, import, encoding, training, other.

        *import* is what passed between a headless kernel's begin and `start`; elsewhere
        the total begins with `start`. *encoding* and *training* are what was `timed`.
        """
        total = time.time() - self._began
        other = max(0.0, total - sum(self._seconds.values()))
        everything = {"total": total, **self._seconds, "other": other}
        return {name: round(value, 3) for name, value in everything.items()}

    def finish(self, metrics: Mapping[str, tuple[Any, str]]) -> None:
        """Write metrics.json from {name: (finite value, unit)}; print one line."""
        rows = []
        for name, (value, unit) in metrics.items():
            value = value.item() if hasattr(value, "item") else value
            if not isinstance(value, int | float) or not math.isfinite(value):
                fault = f"metric {name!r} is {value!r}"
                raise LabError(f"{fault}: it must be a finite number")
            rows.append({"name": name, "value": value, "unit": unit})
        report = {
            "notebook": self.name,
            "profile": self.settings.profile,
            "seed": self.settings.seed,
            "settings": self.settings.flat(),
            "versions": machine.versions(),
            "device": machine.device_name(),
            "seconds": self.seconds(),
            "peak_memory_gb": round(machine.peak_memory_gb(), 3),
            "metrics": rows,
            "figures": [*self._figures.values()],
        }
        write_json(self.path("metrics.json"), report)
        total, peak = report["seconds"]["total"], report["peak_memory_gb"]
        print(f"{len(rows)} numbers in metrics.json; {total:.0f} s, peak {peak:.1f} GB")


def explore(run: Run, show: Callable[..., None], **controls: Any) -> None:
    """Call `show()`, and let whoever watches call it again with other arguments.

    A headless run shows the picture of record alone; what controls ask for is drawn
    below them, and not kept. show: displays something, and has a default for each
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


def table(
    frame: pd.DataFrame, digits: int = 3, index: bool = True, fold: str = ""
) -> None:
    """Show a frame whole: every header names its column or row, no text is cut.

    Texts stand left, numbers right with `digits` places; booleans are yes and no, and
    what is missing is empty. With a title in `fold` it opens on a click.
    """
    from nbutils.pages.index import templates

    frame, names = pd.DataFrame(frame), 0
    heads = [" ".join(map(str, h)) if isinstance(h, tuple) else h for h in frame]
    rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    if index:
        names = frame.index.nlevels
        heads = [*(name or "" for name in frame.index.names), *heads]
        labels = [label if names > 1 else [label] for label in frame.index]
        rows = [[*label, *row] for label, row in zip(labels, rows, strict=True)]
    macro = templates().get_template("table.html.j2").module.table
    markup = macro(heads, rows, names, f".{digits}f")
    if fold:
        title = f"<summary>{html.escape(fold)}</summary>"
        markup = f"<details>{title}{markup}</details>"
    _display(str(markup), f"{len(rows)} rows")


def _display(markup: str, text: str) -> None:
    from IPython.display import display

    display({"text/html": markup, "text/plain": text}, raw=True)


def _png(figure: Any) -> bytes:
    """A figure with 64 colours: a third of the bytes, and no visible change.

    The most different ones are kept: the usual choice drops the colour of a few marks.
    """
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    few = Image.open(drawn).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE)
    few.save(small, "png", optimize=True)
    return small.getvalue()
