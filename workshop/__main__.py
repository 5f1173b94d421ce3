"""`python -m workshop site|slides|bundle`: one folder each, for a room of people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbutils.options import LabGroup

app = typer.Typer(
    cls=LabGroup,
    help="A site to read, slides to show, a bundle to install without a network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def folder(default: str):
    """An option for the folder that is written."""
    return Annotated[Path, typer.Option(help=f"folder to write ({default})")]


@app.command()
def site(out: folder("runs/site") = Path("runs/site")) -> None:
    """The executed pages and the texts as one static site, with search."""
    from workshop.site import build

    typer.echo(f"{len(build(out))} pages: {out / 'index.html'}")


@app.command()
def slides(
    out: folder("runs/slides") = Path("runs/slides"), tag: str = "lab90"
) -> None:
    """The cells of a tag as slides, from the outputs stored in the notebooks."""
    from workshop.site import slides as build

    for path in build(out, tag):
        typer.echo(path)


@app.command()
def bundle(out: folder("runs/bundle") = Path("runs/bundle")) -> None:
    """Wheels, models, data and site in one folder, to install without a network."""
    from workshop.bundle import build

    build(out, typer.echo)


if __name__ == "__main__":
    app(prog_name="python -m workshop")
