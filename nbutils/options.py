"""What the commands share: the application, its options, its one-line errors."""

import errno
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nbutils.core.errors import LabError


class LabGroup(TyperGroup):
    """Shows what the user can mend as one line on stderr, without a traceback."""

    def invoke(self, ctx):
        try:
            if any(word.startswith("=") for word in ctx.args):
                raise LabError("write name=value in one word, without spaces: seed=1")
            return super().invoke(ctx)
        except LabError as error:
            fault, code = f"error: {error}", 1
        except KeyboardInterrupt:
            fault, code = "stopped: what was finished is kept", 130
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # a library's own, a closed pipe
                raise
            place = error.filename or "the output"
            fault = f"error: {place} cannot be used ({error.strerror}): name another"
            code = 1
        typer.echo(fault, err=True)
        raise typer.Exit(code)


app = typer.Typer(
    cls=LabGroup,
    help="Hard negatives for text embeddings: run and check the six notebooks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def option(kind: Any, text: str, *names: str, **more: Any):
    """The type of an option with its line of help."""
    return Annotated[kind, typer.Option(*names, help=text, **more)]


def argument(kind: Any, text: str):
    """The type of an argument with its line of help."""
    return Annotated[kind, typer.Argument(help=text)]


Profile = option(str, "smoke, workshop or paper")
Assign = option(
    list[str] | None, "change a setting; repeat", "--set", metavar="NAME=VALUE"
)
Config = option(Path | None, "YAML file of settings")
Stages = argument(
    list[str] | None, "brainstorm, seed, mgh, syneg, syneg-free; all if none"
)
Folder = argument(Path, "corpus.jsonl, queries.jsonl and qrels/, or a file of pairs")
Split = option(str, "qrels/SPLIT.tsv names the queries")
Skip = option(bool, "leave out what qrels name and the files lack", "--skip-missing")
Form = option(str, "table, triplet, n-tuple, labeled-pair, labeled-list", "--format")
Scores = option(bool, "the teacher's scores in a trainer's format", "--scores")
Seeds = option(str, "seeds, such as 0,1,2")
MaxCost = option(float | None, "stop before the store's answers cost more")
Batch = option(bool, "use the provider's batch files", "--batch")
Live = option(bool, "with --batch: ask live what the batches leave", "--live")


def gather(assign: list[str] | None, config: Path | None) -> dict[str, Any]:
    """Overrides from a YAML file and `name=value` words; the words win."""
    from nbutils.core import settings

    values = settings.read_config(config) if config else {}
    return values | dict(settings.parse_assignment(text) for text in assign or [])
