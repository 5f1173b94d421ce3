"""The command line: `python -m nbutils COMMAND`. Heavy modules load when needed."""

import os
from pathlib import Path

import typer

from nbutils import asking
from nbutils import options as o
from nbutils.core.errors import LabError, known, nearest
from nbutils.options import app, argument, gather, option

__all__ = ["app", "asking"]


@app.command()
def run(
    names: argument(list[str] | None, "notebooks, such as 03; the six if none") = None,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
    out: option(str, "folder of the runs") = "runs",
    write: option(bool, "rewrite notebooks/ with their outputs", "--write") = False,
    tag: option(str, "only its cells and what they need, below OUT/TAG: lab90") = "",
    timeout: option(int, "seconds that one cell may take; 0: no limit") = 600,
) -> None:
    """Run notebooks headless, in order; write them, their metrics and an index."""
    overrides = gather(assign, config)
    from nbutils.pages import execute

    outcomes = execute.run_all(
        names or execute.PAGES, out, profile, overrides, timeout, write, tag, typer.echo
    )
    import pandas as pd

    rows = []
    for one in outcomes:
        row = {"notebook": one.name, "state": one.state, "seconds": one.seconds}
        row |= {"total": None, **one.metrics.get("seconds", {})}
        rows.append({**row, "peak GB": one.metrics.get("peak_memory_gb")})
    rows.append({"notebook": "all", "seconds": sum(one.seconds for one in outcomes)})
    table = pd.DataFrame(rows).drop(columns="total").round(1).astype(object)
    typer.echo(table.fillna("").to_string(index=False))
    typer.echo(f"index: {Path(out, tag, 'index.html')}")
    for one in outcomes:
        if one.state == "failed":
            raise LabError(one.error)


@app.command()
def train(
    seeds: o.Seeds = "0",
    out: option(Path | None, "folder of scores, logs and students") = None,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
    checkpoints: option(Path | None, "a stopped run goes on from this folder") = None,
) -> None:
    """Train one student a seed, keep it, and score held-out sets before and after.

    On several GPUs: `accelerate launch --multi_gpu --num_processes N -m nbutils train`.
    """
    folder = _study("train", seeds, out, profile, assign, config, checkpoints)
    from nbutils.core import processes
    from nbutils.evaluation import runs

    if processes.is_main():
        for line in runs.report("train", folder):
            typer.echo(line)
        typer.echo(f"scores, logs and students: {folder}")


def _study(name, seeds, out, profile, assign, config, checkpoints=None) -> Path:
    """Make a study's runs; returns their folder."""
    overrides = gather(assign, config)
    if "seed" in overrides:
        raise LabError("seeds are named by --seeds, such as --seeds 3, not by --set")
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        fault = f"--seeds takes numbers such as 0,1,2, not {seeds!r}"
        raise LabError(fault) from None
    from nbutils.core.settings import ROOT
    from nbutils.evaluation import runs

    own = Path(profile, "train") if name == "train" else "studies"
    folder = out or ROOT / "runs" / own
    more = {"say": typer.echo, "checkpoints": checkpoints}
    runs.run_study(name, numbers, folder, profile, overrides, **more)
    return folder


@app.command()
def mine(
    folder: o.Folder,
    split: o.Split = "train",
    teacher: option(str | None, "one teacher in place of the settings'") = None,
    out: option(Path | None, "the negatives, .parquet or .csv") = None,
    form: o.Form = "table",
    scores: o.Scores = False,
    skip_missing: o.Skip = False,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
) -> None:
    """Mine negatives for any retrieval set by the settings; print the audit.

    On several GPUs or hosts: `accelerate launch -m nbutils mine …`.
    """
    overrides = gather(assign, config) | ({"teachers": [teacher]} if teacher else {})
    from nbutils.core import files, machine, retrieval, settings

    chosen = settings.resolve(profile, overrides)
    machine.check_machine(chosen)
    data = retrieval.read_set(folder, split, skip_missing, typer.echo)
    from nbutils.core import processes
    from nbutils.mining import audit, formats, miner

    out = out or settings.ROOT / "runs" / profile / f"mined-{data.name}.parquet"
    out = out if out.suffix in (".parquet", ".csv") else Path(f"{out}.parquet")
    if known("format", form, formats.FORMATS) != "table" and out.suffix == ".csv":
        raise LabError(f"a csv holds no lists, which {form} may need: name a .parquet")
    ensemble = chosen.mining.ensemble
    if scores and ensemble.startswith("intra"):
        raise LabError("scores of several teachers do not compare: mine with one")
    processes.place()  # each process takes its own GPU before a model is loaded
    with files.alone(out, processes.is_main()):
        negatives = miner.mine_by_settings(data, chosen, typer.echo)
        if processes.is_main():
            made = formats.training_rows(negatives, data, form, scores)
            files.write_table(out, made)
    if not processes.is_main():
        return
    wanted, repeats = chosen.mining.negatives_per_query, ensemble == "intra_sample"
    report = audit.check_mined(negatives, data, wanted, repeats=repeats)
    typer.echo(report.drop(columns="example").round(4).to_string(index=False))
    whose = ", ".join(negatives["teacher"].unique())
    rows = "" if form == "table" else f", as {len(made)} rows of {form}"
    typer.echo(
        f"{len(negatives)} negatives of {negatives['query_id'].nunique()} of "
        f"{len(data.queries)} queries, {len(data.corpus)} documents, by {whose} "
        f"({chosen.mining.mining_method}): written to {out}{rows}"
    )
    audit.demand(report)  # the table is written: what was mined is not lost


@app.command()
def study(
    names: argument(list[str], "studies, such as pooling"),
    seeds: o.Seeds = "0,1,2",
    out: option(Path | None, "folder of the runs; what it holds is kept") = None,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
) -> None:
    """Train a student for every variant of a study and seed that is not made yet."""
    for name in names:
        folder = _study(name, seeds, out, profile, assign, config)
        typer.echo(f"{name}: all runs are in {folder}")


@app.command()
def score(
    folder: o.Folder,
    models: argument(list[str], "folders of trained students, or encoders by name"),
    split: o.Split = "test",
    out: option(Path, "scores of every query, .parquet too") = Path("runs/scores.csv"),
    skip_missing: o.Skip = False,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
) -> None:
    """Score models on any retrieval set; trained students before training, too."""
    from nbutils.core import files, retrieval, settings
    from nbutils.core.statistics import in_words
    from nbutils.evaluation import runs, studies

    chosen = settings.resolve(profile, gather(assign, config))
    data = retrieval.read_set(folder, split, skip_missing, typer.echo)
    out = out if out.suffix in (".parquet", ".csv") else Path(f"{out}.csv")
    table = runs.score_models(models, chosen, data)
    files.write_table(out, table)
    means = table.groupby("variant", sort=False)["ndcg"].mean()
    for name, mean in means.items():
        typer.echo(f"{name}: NDCG@10 {mean:.3f}")
        if (before := f"untrained, {name}") in means:
            gain = studies.difference(table, name, before, data.name)
            typer.echo(f"{name}, by training: {in_words(gain)}")
    typer.echo(f"scores of every query: {out}")


@app.command()
def claims(
    out: option(Path, "the table of comparisons, .csv") = Path("runs/claims.csv"),
) -> None:
    """Compare what the papers claim with the shipped runs; print each verdict."""
    from nbutils import claims as claiming
    from nbutils.core.settings import ROOT

    claiming.make(ROOT / out, typer.echo)
    typer.echo(f"every comparison: {out}")


@app.command()
def fetch() -> None:
    """Get the language model SmolLM2-135M-Instruct once; no network afterwards."""
    from nbutils.core import machine
    from nbutils.core.sections import SMOLLM2

    try:
        typer.echo(f"{SMOLLM2} is already in {machine.fetched(SMOLLM2)}")
    except LabError:
        quiet = {"HF_HUB_OFFLINE": "1", "USE_HUB_KERNELS": "NO", "TQDM_DISABLE": "1"}
        os.environ |= quiet  # read when these libraries are imported
        from nbutils.encoder.fetch import fetch as get

        get(typer.echo)


@app.command()
def solutions(
    names: argument(list[str] | None, "notebooks, such as 03; all if none") = None,
    out: option(Path, "folder of the notebooks of solutions") = Path("runs/solutions"),
) -> None:
    """Write each notebook with its exercises solved."""
    from nbutils.pages.solutions import write_solutions

    for path in write_solutions(names or [], out):
        typer.echo(path)


@app.command()
def check() -> None:
    """Check data, prompts, model, settings and notebooks; exit 1 on a fault."""
    from nbutils import checks

    if faults := checks.check_all(typer.echo):
        raise LabError(f"{faults} of the checks found a fault")


@app.command("settings")
def list_settings(
    word: argument(str, "only those that have it in name, room or meaning") = "",
    profile: o.Profile = "workshop",
) -> None:
    """Print every setting with its value in a profile, unit, source and meaning."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from nbutils.core import settings

    settings.resolve(profile)
    table = Table("setting", profile, "default", "unit", "source", "meaning")
    for row in settings.table():
        if word not in f"{row['section']} {row['name']} {row['text']}":
            continue
        value, default = (escape(str(row[p])) for p in (profile, "workshop"))
        cells = (value, "") if value == default else (f"[bold]{value}[/]", default)
        table.add_row(row["name"], *cells, row["unit"], row["source"], row["text"])
    if not table.row_count:
        near = nearest(word, settings.PLACES)
        raise LabError(f"no setting, section or meaning has {word!r} in it{near}")
    Console(width=None if Console().is_terminal else 160).print(table)


if __name__ == "__main__":
    app(prog_name="python -m nbutils")
