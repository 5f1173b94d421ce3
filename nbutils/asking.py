"""The commands that ask a language model: estimate, record, grade."""

from pathlib import Path

import typer

from nbutils import options as o
from nbutils.options import app, gather, option


def chosen_settings(profile, assign, config, max_cost=None, **base):
    """The settings in force: the profile's, under `base`, under the user's words."""
    from nbutils.core import settings

    overrides = base | gather(assign, config)
    overrides |= {} if max_cost is None else {"llm_max_cost": max_cost}
    return settings.resolve(profile, overrides)


def tell_cost(found, chosen, more: str = "") -> None:
    """Print the table of an estimate, its sum in words, and what `more` there is."""
    typer.echo(found.round(4).to_string(index=False))
    total = found.iloc[-1]
    typer.echo(
        f"{chosen.llm.model}: about {total['cost']:.2f} {total['currency']} live, "
        f"{total['batch_cost']:.2f} by batch files; {total['cost_p90']:.2f} if every "
        "answer is long. Tokens counted by MiniLM's tokenizer; repeats come on "
        f"top.{more}"
    )


@app.command()
def estimate(
    stages: o.Stages = None,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
) -> None:
    """Say what a recording would ask and cost; nothing is asked."""
    chosen = chosen_settings(profile, assign, config)
    from nbutils.synthesis import recording

    more = " mgh and syneg are planned from recorded answers, by the default prompt."
    tell_cost(recording.estimate(chosen, stages or ()), chosen, more)


@app.command()
def record(
    stages: o.Stages = None,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
    max_cost: o.MaxCost = None,
    batch: o.Batch = False,
    live: o.Live = False,
) -> None:
    """Ask a server for every missing answer, and keep each as it arrives."""
    chosen = chosen_settings(profile, assign, config, max_cost, llm_mode="live")
    from nbutils.synthesis import recording

    with recording.on_terminal(chosen, batch, live) as (client, watch):
        made = recording.record(client, stages or (), watch)
    for stage, (accepted, rejected) in made.items():
        count = f"{len(accepted)} records, {len(rejected)}"
        typer.echo(f"{stage}: {count} rejected for good")


@app.command()
def grade(
    folder: o.Folder,
    split: o.Split = "train",
    limit: option(int, "first queries to take; 0: all") = 0,
    out: option(Path | None, "the examples, .jsonl") = None,
    skip_missing: o.Skip = False,
    profile: o.Profile = "workshop",
    assign: o.Assign = None,
    config: o.Config = None,
    max_cost: o.MaxCost = None,
    batch: o.Batch = False,
    live: o.Live = False,
    only_estimate: option(bool, "say the cost, ask nothing", "--estimate") = False,
) -> None:
    """Have N1 to N4 written for the queries of any retrieval set (MGH); live or replay.

    By `--set mgh_calls=level` each negative is asked for alone.
    """
    chosen = chosen_settings(profile, assign, config, max_cost)
    from nbutils.core import files, retrieval, settings
    from nbutils.synthesis import from_sets, recording

    data = retrieval.read_set(folder, split, skip_missing, typer.echo)
    requests = from_sets.seeded_requests(data, chosen, limit)
    if only_estimate:
        return tell_cost(from_sets.estimate(requests, chosen), chosen)
    out = out or settings.ROOT / "runs" / profile / f"graded-{data.name}.jsonl"
    with recording.on_terminal(chosen, batch, live) as (client, watch):
        made, rejected = from_sets.graded(requests, client, watch)
    count = files.write_jsonl(out, made)
    typer.echo(f"{count} graded examples, {len(rejected)} rejected for good: {out}")
