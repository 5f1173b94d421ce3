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
    _, steps = trained(steps_per_level=2, warmup_steps=4, learning_rate=1e-3)
    rates = [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert list(1e3 * steps["learning_rate"]) == pytest.approx(rates)
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


MEMORY = r"mini_batch=6 and mini_batch_tokens=1536.*gradient_cache=true"


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (RuntimeError("CUDA out of memory"), LabError, MEMORY),
        (RuntimeError("can't allocate memory: 8 GB"), LabError, MEMORY),
        (MemoryError(), LabError, MEMORY),
        (RuntimeError("shapes do not fit"), RuntimeError, "shapes"),  # no memory's
    ],
)
def test_out_of_memory_names_the_settings_to_lower(monkeypatch, fault, kind, told):
    def limited(*_):
        raise fault

    monkeypatch.setattr(gradcache, "group_vectors", limited)
    with pytest.raises(kind, match=told):
        trained(mini_batch=6)


@pytest.mark.parametrize(
    ("factor", "told"), [(float("nan"), "not finite at step 1"), (0.0, "no gradient")]
)
def test_a_loss_that_trains_nothing_is_named_and_moves_no_weight(
    monkeypatch, factor, told
):
    model = build_student(resolve("smoke"))
    before = {name: p.detach().clone() for name, p in adapters(model).items()}
    original = losses.info_nce
    monkeypatch.setattr(losses, "info_nce", lambda *args: original(*args) * factor)
    with pytest.raises(LabError, match=told):
        trained(model)
    assert all(torch.equal(before[name], p) for name, p in adapters(model).items())
