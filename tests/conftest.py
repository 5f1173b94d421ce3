"""What several test files share: small notebooks, a cache of their own, coverage."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import faults
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'profile: str = "workshop"\noverrides: dict = {}\nout: str = "runs"'
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def probe(
    *body: str, parameters: str = PARAMETERS, last: str | None = None, tag="parameters"
) -> nbformat.NotebookNode:
    """A sound notebook named `probe` whose middle cells are `body`."""
    tagged = new_code_cell(parameters, metadata={"tags": tag.split()})
    cells = [
        new_markdown_cell("# A probe"),
        new_code_cell("from nbutils import pages"),
        tagged,
        new_code_cell('run = pages.start("probe", profile, overrides, out)'),
        *(new_code_cell(source) for source in body),
        new_code_cell(last or 'run.finish({"answer": (42, "items")})'),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.path.stem != "test_smoke_run")


def free_port() -> str:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="session", autouse=True)
def vectors_apart(tmp_path_factory):
    """Vectors that tests encode go to a folder of their own, not to the project's.

    The encoder is not imported for it: where no test file needs it, it stays out.
    """
    with pytest.MonkeyPatch.context() as patch:
        encoder = sys.modules.get("nbutils.encoder.vectors")
        if encoder is not None:
            patch.setattr(encoder, "VECTORS", tmp_path_factory.mktemp("vectors"))
        yield


def coverage(trial: Callable, truth: float, trials: int = 200) -> float:
    """Share of intervals that hold the truth, over trials on fresh data.

    `trial` takes a random generator, draws data and returns (value, low, high). Of
    200 intervals of 95 % that are right, between 0.89 and 0.99 hold it.
    """
    held = 0
    for number in range(trials):
        _, low, high = trial(np.random.default_rng(number))
        held += low <= truth <= high
    return held / trials


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    """A small set of one's own in BEIR's layout; its two splits are alike."""
    texts = {f"d{n}": f"document {n} of {n * 7}" for n in range(12)}
    rows = {"corpus": texts, "queries": {f"q{n}": f"which is {n}" for n in range(6)}}
    for name, own in rows.items():
        lines = [json.dumps({"_id": i, "text": text}) for i, text in own.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "qrels").mkdir()
    pairs = "".join(f"q{n}\td{n}\t1\n" for n in range(6))
    for split in ("train", "test"):
        table = "query-id\tcorpus-id\tscore\n" + pairs
        (tmp_path / f"qrels/{split}.tsv").write_text(table)
    return tmp_path


@pytest.fixture
def write_probe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a probe notebook to a folder of its own; returns its path."""

    def write(*body: str, **changes: str) -> Path:
        path = tmp_path / "probe.ipynb"
        nbformat.write(probe(*body, **changes), path)
        return path

    return write


@pytest.fixture
def server(monkeypatch):
    """A chat server on loopback that answers from the recordings, in the environment.

    Without faults, unless a test sets some (`faults.FaultServer`).
    """
    made = faults.FaultServer()
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    monkeypatch.setenv("OPENAI_API_KEY", faults.KEY)
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def live(tmp_path):
    """Makes the settings of a live client: one family, no retries, no asking again."""

    def made(**changes):
        chosen = {"families": ["health"], "llm_retries": 0, "llm_reasks": 0}
        return faults.settings_for(tmp_path / "s.sqlite", **(chosen | changes))

    return made
