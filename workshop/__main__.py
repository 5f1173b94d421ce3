"""`python -m workshop site|slides|bundle`: one folder each, for a room of people."""

from pathlib import Path

import typer

from nbutils.options import LabGroup, option

app = typer.Typer(
    cls=LabGroup,
    help="A site to read, slides to show, a bundle to install without a network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Out = option(Path, "folder to write")


@app.command()
def site(out: Out = Path("runs/site")) -> None:
    """The executed pages and the texts as one static site, with search."""
    from workshop.site import build

    typer.echo(f"{len(build(out))} pages: {out / 'index.html'}")


@app.command()
def slides(
    out: Out = Path("runs/slides"), tag: option(str, "cells of this tag") = "lab90"
) -> None:
    """The cells of a tag as slides, from the outputs stored in the notebooks."""
    from workshop.site import slides as build

    for path in build(out, tag):
        typer.echo(path)


@app.command()
def bundle(out: Out = Path("runs/bundle")) -> None:
    """Wheels, models, data and site in one folder, to install without a network."""
    from workshop.bundle import build

    build(out)


if __name__ == "__main__":
    app(prog_name="python -m workshop")
