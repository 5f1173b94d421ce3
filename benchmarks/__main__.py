"""`python -m benchmarks NAME --json FILE`: measurements as rows beside their peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks import harness
from nbutils.core.errors import LabError


def main(
    name: Annotated[str, typer.Argument(help="suite: " + ", ".join(harness.SUITES))],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="also write the rows here")
    ] = None,
    out: Annotated[str, typer.Option(help="folder of the runs")] = "runs",
    profile: Annotated[str, typer.Option(help="smoke, workshop or paper")] = "workshop",
) -> None:
    """Print measurements as rows of name, value, peer, ratio and unit."""
    try:
        rows = harness.bench(name, out, profile)
    except LabError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    for row in rows:
        peer = "" if row["peer"] is None else f"  peer {row['peer']:.4g}"
        ratio = "" if row["ratio"] is None else f"  ratio {row['ratio']:.3g}"
        typer.echo(
            f"{row['name']:<48} {row['value']:>10.4g} {row['unit']}{peer}{ratio}"
        )
    if json_file:
        harness.write(json_file, rows)


if __name__ == "__main__":
    typer.run(main)
