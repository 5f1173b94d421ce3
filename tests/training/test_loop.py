"""Training that trains: loss, rate, seeds, what is saved, and faults by name."""

import pytest
import torch
from training.made import instance

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student
from nbutils.training import gradcache, loop, losses
from nbutils.training.checkpoints import adapters

DATA = [instance(n) for n in range(16)]


def trained(model=None, **changes):
    """(model, steps) of a small run."""
    settings = resolve("smoke", {"steps_per_level": 1, "warmup_steps": 1, **changes})
    model = model or build_student(settings)
    return model, loop.train(model, DATA, settings, progress=False)[0]


def test_training_lowers_the_loss_and_moves_only_adapters():
    model = build_student(resolve("smoke"))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    model, steps = trained(model, steps_per_level=4, learning_rate=5e-3)
    assert list(steps["level"].unique()) == ["N4", "N3", "N2", "N1"]
    assert steps["loss"].iloc[-4:].mean() < steps["loss"].iloc[:4].mean()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
        elif "lora_B" in name:
            assert parameter.abs().max() > 0, f"{name} did not move"


def test_the_same_seed_gives_the_same_run_and_another_gives_another():
    one, two, other = (trained(seed=seed)[1]["loss"].tolist() for seed in (0, 0, 1))
    assert one == two != other


def test_rate_warms_up_and_decays_to_zero():
    rates = [loop.rate_share(step, 6, 2) for step in range(6)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    _, steps = trained(warmup_steps=2, learning_rate=1e-3)
    wanted = [1e-3 * loop.rate_share(step, 4, 2) for step in range(4)]
    assert steps["learning_rate"].tolist() == pytest.approx(wanted)
    with pytest.raises(LabError, match="would never be reached"):
        trained(warmup_steps=4)


def test_paged_optimizer_needs_a_gpu():
    with pytest.raises(LabError, match="needs a GPU"):
        trained(optimizer="paged_adamw_8bit")


def test_a_run_that_cannot_be_saved_leaves_the_one_before(tmp_path, monkeypatch):
    settings = resolve("smoke")
    model, steps = trained()
    log = steps, steps.head(0)
    folder = loop.save_run(model, tmp_path / "student", log, [], settings)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(loop, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.save_run(model, folder, log, [], settings)
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert after == before and [*tmp_path.iterdir()] == [folder]


# -- faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["CUDA out of memory", "can't allocate memory: 8 GB"])
def test_out_of_memory_names_the_settings_to_lower(monkeypatch, words):
    def limited(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(gradcache, "group_vectors", limited)
    with pytest.raises(
        LabError, match=r"mini_batch=6 and mini_batch_tokens=1536"
    ) as told:
        trained(mini_batch=6)
    assert "gradient_cache=true" in str(told.value)


def test_other_faults_are_not_called_memory(monkeypatch):
    def faulty(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(loop, "training_step", faulty)
    with pytest.raises(RuntimeError, match="shapes"):
        trained()


def test_a_loss_that_is_not_finite_moves_no_weight(monkeypatch):
    model = build_student(resolve("smoke"))
    before = {name: p.detach().clone() for name, p in adapters(model).items()}
    original = losses.info_nce
    monkeypatch.setattr(
        losses, "info_nce", lambda *args: original(*args) * float("nan")
    )
    with pytest.raises(LabError, match="not finite at step 1"):
        trained(model)
    assert all(torch.equal(before[name], p) for name, p in adapters(model).items())


def test_adapters_without_a_gradient_are_named(monkeypatch):
    original = losses.info_nce
    monkeypatch.setattr(losses, "info_nce", lambda *args: original(*args) * 0.0)
    with pytest.raises(LabError, match="no gradient"):
        trained()
