"""A run that was stopped goes on exactly; what cannot go on says so."""

import errno
import os
import resource
import signal
import sys

import pandas as pd
import pytest
import torch
from training.made import instance, launch

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student
from nbutils.training import checkpoints, loop

CHANGES = {
    "steps_per_level": 3, "warmup_steps": 2, "checkpoint_every": 2,
    "lora_dropout": 0.2, "batch_size": 4, "mini_batch": 4, "gradient_cache": True,
}  # fmt: skip
DATA = [instance(n) for n in range(12)]
KILLED = {"first": ("training_step", 2, 0), "sixth": ("training_step", 6, 4),
          "saving": ("save", 4, 6)}  # fmt: skip
"""Function whose call of this number kills the process, and the step that is saved."""
DIES = """
import os, sys
from training.made import dies
from training.test_checkpoints import KILLED, run
from nbutils.training import checkpoints, loop
for case, (name, call, _) in KILLED.items():
    if not os.fork():
        dies(checkpoints if name == "save" else loop, name, call)
        run(f"{sys.argv[1]}/{case}")
        os._exit(0)
    print(os.wait()[1])
"""


def run(folder=None, **changes):
    """(adapters, steps, evaluations) of a small run; `folder` has its checkpoints."""
    settings = resolve("smoke", {**CHANGES, **changes})
    model = build_student(settings)
    steps, evaluations = loop.train(
        model, DATA, settings, progress=False,
        evaluate=lambda m: {"mean": float(next(m.parameters()).float().mean())},
        checkpoint_folder=folder,
    )  # fmt: skip
    weights = {n: p.detach().numpy() for n, p in checkpoints.adapters(model).items()}
    return weights, steps.drop(columns="seconds"), evaluations


@pytest.fixture(scope="module")
def whole():
    return run()


def same(ours, theirs) -> None:
    """Equal to the last bit, but for the clock."""
    assert ours[0].keys() == theirs[0].keys()
    for name, weights in ours[0].items():
        assert weights.tobytes() == theirs[0][name].tobytes(), name
    for table, wanted in zip(ours[1:], theirs[1:], strict=True):
        pd.testing.assert_frame_equal(table, wanted, check_exact=True)


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A folder with the checkpoint of a run that was stopped in its fifth step."""
    original, left = loop.training_step, [True] * 4

    def step(*args):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "training_step", step)
        run(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder in which each case of KILLED left its own; the imports are shared."""
    folder = tmp_path_factory.mktemp("killed")
    done = launch("-c", DIES, str(folder))
    ends = [*map(int, done.stdout.split())]
    assert ends == [signal.SIGKILL] * len(KILLED), done.stderr[-800:]
    return folder


@pytest.mark.parametrize("case", KILLED)
def test_a_killed_run_goes_on_bit_for_bit(whole, killed, case):
    folder, settings = killed / case, resolve("smoke", CHANGES)
    state = checkpoints.read(folder, settings, checkpoints.data_digest(DATA))
    assert (state["step"] if state else 0) == KILLED[case][-1]
    same(run(folder), whole)
    same(run(folder), whole)  # and a finished one is only read


def test_a_checkpoint_with_names_of_before_goes_on(whole, stopped):
    """Its adapters were wrapped once more: `0.model.base_model.model.layers…`."""
    path = stopped / checkpoints.NAME
    state = torch.load(path)
    before = {
        name.replace("0.model.", "0.model.base_model.model."): tensor
        for name, tensor in state["adapters"].items()
    }
    torch.save({**state, "adapters": before}, path)
    same(run(stopped), whole)


def test_other_settings_data_and_damage_are_refused(stopped, monkeypatch, capsys):
    with pytest.raises(LabError, match=r"temperature=0.05 \(now 0.1\)"):
        run(stopped, temperature=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "DATA", DATA[::-1])
        with pytest.raises(LabError, match=r"run with data='\w+'"):
            run(stopped)
    run(stopped, mini_batch=2)
    assert "mini_batch=4 (now 2): bits may differ" in capsys.readouterr().out
    path = stopped / checkpoints.NAME
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(LabError, match="is damaged"):
        run(stopped)


def test_a_full_disk_is_named_and_the_checkpoint_before_is_kept(
    whole, tmp_path, monkeypatch
):
    """The file size limit makes the writing itself fail, as a full disk does."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    original, calls = checkpoints.save, []

    def save(*args):
        calls.append(1)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        original(*args)

    monkeypatch.setattr(checkpoints, "save", save)
    try:
        with pytest.raises(LabError, match="step 4 cannot be written") as caught:
            run(tmp_path)
    finally:
        monkeypatch.undo()
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert "the one before is kept" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.NAME]
    same(run(tmp_path), whole)
