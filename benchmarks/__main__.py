"""`python -m benchmarks NAME --json FILE`: measurements as rows beside their peers."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from nbutils.core.errors import LabError, known
from nbutils.core.files import write_json

SUITES = ("llm", "mining", "pooling", "training", "gpu")


def main(
    name: Annotated[str, typer.Argument(help="suite: " + ", ".join(SUITES))],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="also write the rows here")
    ] = None,
    out: Annotated[str, typer.Option(help="folder of the runs")] = "runs",
) -> None:
    """Print measurements as rows of name, value, peer, ratio and unit."""
    try:
        suite = import_module(f"benchmarks.{known('suite', name, SUITES)}")
        rows = suite.rows(out)
    except LabError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    table = pd.DataFrame(rows).astype({"peer": float, "ratio": float})
    form = {"index": False, "na_rep": "", "float_format": "{:.4g}".format}
    typer.echo(table.to_string(**form))
    if json_file:
        write_json(json_file, rows)


if __name__ == "__main__":
    typer.run(main)
