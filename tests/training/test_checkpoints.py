"""A run that was stopped goes on exactly; what cannot go on says so."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import weakref

import pytest
import torch
from training.test_training import instance

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student
from nbutils.training import checkpoints, gradcache, loop, losses

CHANGES = {
    "steps_per_level": 3, "warmup_steps": 2, "checkpoint_every": 2,
    "lora_dropout": 0.2, "batch_size": 4, "mini_batch": 4, "gradient_cache": True,
}  # fmt: skip
DATA = [instance(n) for n in range(12)]
DIES = """
import os, signal, sys
from training.test_checkpoints import CHANGES, run
from nbutils import training
folder, last, where = sys.argv[1], int(sys.argv[2]), sys.argv[3]
original = getattr(training, where)
calls = 0
def deadly(*args, **kwargs):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(training, where, deadly)
run(folder)
"""


def run(folder=None, **changes):
    """(adapters, log) of a small run that keeps its checkpoints in `folder`."""
    settings = resolve("smoke", {**CHANGES, **changes})
    model = build_student(settings)
    log = loop.train(
        model, DATA, settings, progress=False, checkpoint_folder=folder,
        evaluate=lambda m: {"mean": float(next(m.parameters()).float().mean())},
    )  # fmt: skip
    return checkpoints.adapters(model), log


@pytest.fixture(scope="module")
def whole():
    return run()


def same(ours, theirs) -> None:
    """Equal to the last bit, but for the clock."""
    (weights, log), (others, wanted) = ours, theirs
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert tensor.numpy().tobytes() == others[name].numpy().tobytes(), name
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in one.steps]
        for one in (log, wanted)
    ]
    assert rows[0] == rows[1] and log.evaluations == wanted.evaluations


@pytest.mark.parametrize(
    ("call", "where", "saved"),
    [(2, "training_step", 0), (6, "check_step", 4), (4, "_keep", 6)],
)
def test_a_killed_run_goes_on_bit_for_bit(whole, tmp_path, call, where, saved):
    command = [sys.executable, "-c", DIES, str(tmp_path), str(call), where]
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-800:]
    settings = resolve("smoke", CHANGES)
    state = checkpoints.read(tmp_path, settings, checkpoints.data_digest(DATA))
    assert (state["step"] if state else 0) == saved
    same(run(tmp_path), whole)
    same(run(tmp_path), whole)  # and a finished one is only read


def test_without_the_random_state_the_bits_would_differ(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "training_step", stops_at(5))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    with pytest.raises(AssertionError):
        same(run(tmp_path), whole)


def stops_at(call: int):
    original, calls = loop.training_step, []

    def step(*args):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args)

    return step


def test_other_settings_data_and_damage_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "training_step", stops_at(4))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    with pytest.raises(LabError, match=r"temperature=0.05 \(now 0.1\)"):
        run(tmp_path, temperature=0.1)
    monkeypatch.setattr(sys.modules[__name__], "DATA", DATA[::-1])
    with pytest.raises(LabError, match="other training data"):
        run(tmp_path)
    monkeypatch.undo()
    path = tmp_path / checkpoints.NAME
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(LabError, match="is damaged"):
        run(tmp_path)


def test_a_full_disk_is_named_and_the_checkpoint_before_is_kept(whole, tmp_path):
    """The file size limit makes the writing itself fail, as a full disk does."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    original, calls = loop._keep, []

    def keep(*args):
        calls.append(1)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        original(*args)

    loop._keep = keep
    try:
        with pytest.raises(LabError, match="step 4 cannot be written") as caught:
            run(tmp_path)
    finally:
        loop._keep = original
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert "the one before is kept" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.NAME]
    same(run(tmp_path), whole)


@pytest.mark.parametrize("cache", [False, True])
def test_out_of_memory_proposes_a_mini_batch_that_fits(monkeypatch, cache):
    original, made, failed = gradcache.group_vectors, [], []

    def limited(model, group):
        if failed:  # what the failed step held would leave less room for the trial
            assert not any(vectors() is not None for vectors in made)
        found = original(model, group)
        made.append(weakref.ref(found))
        if len(group["input_ids"]) > (3 if torch.is_grad_enabled() else 100):
            failed.append(made.copy())
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    monkeypatch.setattr(gradcache, "group_vectors", limited)
    if not cache:  # other processes do not try: an exchange would wait for them
        monkeypatch.setattr(gradcache, "together", None)
        monkeypatch.setattr(gradcache, "sum_gradients", None)
    with pytest.raises(LabError, match=r"gradient_cache=true --set mini_batch=2 fits"):
        run(mini_batch=8, gradient_cache=cache)
    assert len(failed) >= 2
    monkeypatch.undo()
    run(mini_batch=2)


def test_out_of_memory_proposes_a_limit_in_tokens_where_there_is_one(monkeypatch):
    original = gradcache.group_vectors

    def limited(model, group):
        if group["input_ids"].numel() > 48:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, group)

    monkeypatch.setattr(gradcache, "group_vectors", limited)
    with pytest.raises(LabError, match=r"mini_batch_tokens=\d+ fits \(tried\)") as told:
        run(mini_batch=64, mini_batch_tokens=160)
    found = int(re.search(r"tokens=(\d+) fits", str(told.value))[1])
    assert 24 <= found <= 48
    run(mini_batch=64, mini_batch_tokens=found)
    monkeypatch.setattr(gradcache, "group_vectors", lambda *_: limited_to_nothing())
    with pytest.raises(LabError, match="not even single texts fit"):
        run(mini_batch_tokens=160)


def limited_to_nothing():
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_faults_are_not_called_memory(monkeypatch):
    def faulty(*args):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(loop, "training_step", faulty)
    with pytest.raises(RuntimeError, match="shapes"):
        run()


def test_a_loss_that_is_not_finite_moves_no_weight(monkeypatch):
    settings = resolve("smoke", CHANGES)
    model = build_student(settings)
    before = checkpoints.adapters(model)
    original = losses.info_nce
    monkeypatch.setattr(
        losses, "info_nce", lambda *args: original(*args) * float("nan")
    )
    with pytest.raises(LabError, match="not finite at step 1"):
        loop.train(model, DATA, settings, progress=False)
    after = checkpoints.adapters(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adapters_without_a_gradient_are_named(monkeypatch):
    original = losses.info_nce
    monkeypatch.setattr(losses, "info_nce", lambda *args: original(*args) * 0.0)
    with pytest.raises(LabError, match="no gradient"):
        run()
