"""The command line: `python -m nbutils COMMAND`. Heavy modules load when needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from nbutils import asking
from nbutils.core.errors import LabError
from nbutils.options import (
    Assign,
    Config,
    Folder,
    Profile,
    Seeds,
    Split,
    app,
    argument,
    gather,
    option,
)

__all__ = ["app", "asking"]


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as whole numbers; LabError for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise LabError(f"--seeds takes numbers such as 0,1,2, not {text!r}") from None


@app.command()
def run(
    names: argument(list[str] | None, "notebooks, such as 03; the six if none") = None,
    profile: Profile = "workshop",
    assign: Assign = None,
    config: Config = None,
    out: option(str, "folder of the runs") = "runs",
    write: option(bool, "rewrite notebooks/ with their outputs", "--write") = False,
    timeout: option(int | None, "seconds that one cell may take; 0: no limit") = None,
) -> None:
    """Run notebooks headless, in order; write them, their metrics and an index."""
    overrides = gather(assign, config)
    from nbutils.pages import execute

    outcomes = execute.run_all(
        names or execute.PAGES, out, profile, overrides, timeout, write, typer.echo
    )
    show(outcomes, out)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        typer.echo(f"error: {outcome.error}", err=True)
    raise typer.Exit(1 if failed else 0)


def show(outcomes: list[Any], out: str) -> None:
    """Print the timing table of a run, and where its index is."""
    from rich.console import Console
    from rich.table import Table

    parts = ("import", "encoding", "training", "other")
    title = "Wall time in seconds"
    table = Table("notebook", "state", title=title, title_justify="left")
    for head in ("total", *parts, "peak GB"):
        table.add_column(head, justify="right")
    for outcome in outcomes:
        cells = [f"{outcome.seconds:.1f}" if outcome.seconds else ""]
        if report := outcome.metrics:
            cells += [f"{report['seconds'][part]:.1f}" for part in parts]
            cells += [f"{report['peak_memory_gb']:.2f}"]
        table.add_row(outcome.name, outcome.state, *cells)
    table.add_section()
    table.add_row("all", "", f"{sum(outcome.seconds for outcome in outcomes):.1f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"index: {Path(out) / 'index.html'}", highlight=False)


@app.command()
def train(
    seeds: Seeds = "0",
    out: option(Path | None, "csv of scores; rows of other seeds are kept") = None,
    profile: Profile = "workshop",
    assign: Assign = None,
    config: Config = None,
    checkpoints: option(Path | None, "a stopped run goes on from this folder") = None,
    students: option(
        Path | None, "folder of the students; OUT.students if none"
    ) = None,
) -> None:
    """Train one student a seed, keep it, and score held-out sets before and after.

    On several GPUs: `accelerate launch --multi_gpu --num_processes N -m nbutils train`.
    """
    overrides, wanted = gather(assign, config), parse_seeds(seeds)
    from nbutils.core import machine, processes, settings
    from nbutils.evaluation import runs

    out = out or settings.ROOT / "runs" / profile / "held_out_by_seed.csv"
    students = students or out.with_suffix(".students")
    for seed in wanted:
        chosen = settings.resolve(profile, {**overrides, "seed": seed})
        machine.check_machine(chosen)
        runs.check_rows(out, chosen)  # not only after hours of training
        kept = checkpoints and checkpoints / f"seed{seed}"
        student = students / f"seed{seed}"
        rows = runs.run_seed(chosen, checkpoint_folder=kept, student_folder=student)
        if processes.is_main():
            runs.add_rows(out, rows, chosen)
            count = processes.place()[1]
            made = f"{count} process" + ("es" if count > 1 else "")
            typer.echo(f"seed {seed}, {made}: scores in {out}, student in {student}")
    if processes.is_main():
        for line in runs.report(out):
            typer.echo(line)


@app.command()
def mine(
    folder: Folder,
    split: Split = "train",
    teacher: option(str | None, "one teacher; the settings' last if none") = None,
    out: option(Path | None, "the negatives, .parquet or .csv") = None,
    profile: Profile = "workshop",
    assign: Assign = None,
    config: Config = None,
) -> None:
    """Mine negatives for any retrieval set by the settings; print the audit.

    On several GPUs or hosts: `accelerate launch -m nbutils mine …`.
    """
    overrides = gather(assign, config)
    from nbutils.core import machine, processes, retrieval, settings
    from nbutils.core.files import write_table
    from nbutils.mining import audit, miner, teachers

    chosen = settings.resolve(profile, overrides)
    machine.check_machine(chosen)
    out = out or settings.ROOT / "runs" / profile / f"mined-{folder.resolve().name}"
    out = out if out.suffix in (".parquet", ".csv") else Path(f"{out}.parquet")
    data = retrieval.read_set(folder, split)
    processes.place()  # each process takes its own GPU before a model is loaded
    found = teachers.load_teacher(teacher or chosen.mining.teachers[-1], chosen)
    negatives = miner.mine_set(data, found, chosen, typer.echo)
    if not processes.is_main():
        return
    write_table(out, negatives)
    report = audit.check_mined(negatives, data, chosen.mining.negatives_per_query)
    typer.echo(report.drop(columns="example").round(4).to_string(index=False))
    typer.echo(
        f"{len(negatives)} negatives of {negatives['query_id'].nunique()} of "
        f"{len(data.queries)} queries, {len(data.corpus)} documents, by {found.name} "
        f"({chosen.mining.mining_method}): written to {out}"
    )
    audit.demand(report)  # the table is written: what was mined is not lost


@app.command()
def study(
    names: argument(list[str], "studies, such as pooling"),
    seeds: Seeds = "0,1,2",
    out: option(Path | None, "folder of the runs; what it holds is kept") = None,
    profile: Profile = "workshop",
    assign: Assign = None,
    config: Config = None,
) -> None:
    """Train a student for every variant of a study and seed that is not made yet."""
    overrides, wanted = gather(assign, config), parse_seeds(seeds)
    from nbutils.core import settings
    from nbutils.evaluation import runs

    folder = out or settings.ROOT / "runs" / "studies"
    for name in names:
        runs.run_study(name, wanted, folder, profile, overrides, typer.echo)


@app.command()
def claims() -> None:
    """Compare what the papers claim with the shipped runs; print each verdict."""
    from nbutils import claims as claiming

    claiming.make(typer.echo)


@app.command()
def fetch() -> None:
    """Get the language model SmolLM2-135M-Instruct once; no network afterwards."""
    from nbutils.core import machine
    from nbutils.core.sections import SMOLLM2

    try:
        typer.echo(f"{SMOLLM2} is already in {machine.fetched(SMOLLM2)}")
    except LabError:
        # read when these libraries are imported: no hub, no kernels, no bars
        os.environ |= {"HF_HUB_OFFLINE": "1", "USE_HUB_KERNELS": "NO"}
        os.environ |= {"TQDM_DISABLE": "1"}
        from nbutils.encoder import fetch as fetching

        fetching.fetch(typer.echo)


@app.command()
def check() -> None:
    """Check data, prompts, model, settings and notebooks; exit 1 on a fault."""
    from nbutils import checks

    faults = checks.check_all(typer.echo)
    if faults:
        raise LabError(f"{faults} of the checks found a fault")


@app.command("settings")
def list_settings(profile: Profile = "workshop") -> None:
    """Print every setting with its value in a profile, unit, source and meaning."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nbutils.core import settings

    settings.resolve(profile)
    table = Table("setting", profile, "default", "unit", "source", "meaning")
    for row in settings.table():
        value, default = row[profile], row["workshop"]
        pair = [Text(str(value)), Text("")]
        if value != default:
            pair = [Text(str(value), style="bold"), Text(str(default))]
        table.add_row(row["name"], *pair, row["unit"], row["source"], row["text"])
    Console(width=None if Console().is_terminal else 160).print(table)


if __name__ == "__main__":
    app(prog_name="python -m nbutils")
