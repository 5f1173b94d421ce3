"""Two processes train as one does with the same global batch, and go on as one."""

import json
import sys

import pandas as pd
import pytest
import torch
from conftest import free_port
from training.made import launch

from nbutils.core import processes
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.training import checkpoints

MADE = """
import sys
import torch
from training.made import dies, instance
from nbutils.core import processes
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student
from nbutils.training import checkpoints, gradcache, loop
folder, given = sys.argv[1:]
DATA = [instance(n) for n in range(12)]
number = processes.place()[0]
def settings_of(**changes):
    usual = {"steps_per_level": 2, "warmup_steps": 2, "batch_size": 8, "mini_batch": 3}
    return resolve("smoke", {**usual, **changes})
def trained(settings, kept):
    steps, _ = loop.train(model, DATA, settings, progress=False, checkpoint_folder=kept)
    adapters = {n: p.detach().clone() for n, p in checkpoints.adapters(model).items()}
    return {"adapters": adapters, "losses": steps["loss"].tolist()}
"""
PAIR = (
    MADE
    + """
exchanges, original = [], processes.add_up
processes.add_up = lambda tensor: exchanges.append(len(tensor)) or original(tensor)
found = {}
for cached in (False, True):
    settings = settings_of(compute_dtype="float32", learning_rate=1e-4,
                           gradient_cache=cached)
    model = build_student(settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in checkpoints.adapters(model).items():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    batch = gradcache.make_batch(DATA[:8], "N2", settings, 0)
    model.train()
    exchanges.clear()
    loss, _ = gradcache.backward(model, batch, settings)
    one = {n: p.grad.clone() for n, p in checkpoints.adapters(model).items()}
    one = {"gradients": one, "exchanges": len(exchanges), "loss": loss.item()}
    found[cached] = one | trained(settings, f"{folder}/checkpoints{cached}")
torch.save({**found, "place": processes.place()}, f"{folder}/{number}.pt")
"""
)
STOPPED = (
    MADE
    + """
settings = settings_of(checkpoint_every=3, lora_dropout=0.3, gradient_cache=True)
model = build_student(settings)
calls = dies(loop, "training_step", int(given))
# each process is a host of its own: only the main one's folder holds the checkpoint
found = trained(settings, f"{folder}/host{number}")
found |= {"steps": len(calls), "random": torch.get_rng_state()}
torch.save(found, f"{folder}/{number}.pt")
"""
)


def run_script(folder, text: str, given: str = "0"):
    """Run a script on two processes; returns how it ended and what each one left."""
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(text)
    done = launch(
        "-m", "torch.distributed.run", "--master-addr", "127.0.0.1", "--master-port",
        free_port(), "--nproc-per-node", "2", str(script), str(folder), given,
    )  # fmt: skip
    return done, [torch.load(path) for path in sorted(folder.glob("*.pt"))]


def equal(one: dict, two: dict, error: float = 0.0) -> None:
    """The same weights or gradients by name."""
    for name, wanted in one.items():
        assert torch.allclose(two[name], wanted, rtol=error, atol=error), name


def test_two_processes_train_as_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "add_up", processes.add_up)  # the script counts
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "0"])
    exec(PAIR, {})
    alone = torch.load(tmp_path / "0.pt")
    done, pair = run_script(tmp_path / "two", PAIR)
    assert [left["place"] for left in pair] == [(0, 2), (1, 2)], done.stderr[-3000:]
    for cached in (False, True):
        wanted, first, second = (left[cached] for left in (alone, *pair))
        assert max(float(g.abs().max()) for g in wanted["gradients"].values()) > 1e-3
        for found in (first, second):
            assert found["exchanges"] == 2  # vectors, then gradients: none a mini-batch
            assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
            assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-4)
            for kind in ("gradients", "adapters"):
                equal(wanted[kind], found[kind], 1e-5)
        equal(first["adapters"], second["adapters"])
        kept = torch.load(tmp_path / "two" / f"checkpoints{cached}" / checkpoints.NAME)
        assert kept["step"] == 8


def test_two_killed_processes_go_on_bit_for_bit(tmp_path, capsys):
    _, wanted = run_script(tmp_path / "whole", STOPPED)
    killed, left = run_script(tmp_path / "killed", STOPPED, "6")
    assert "SIGKILL" in killed.stderr and not left, killed.stderr[-2000:]
    hosts = {path.parent.name for path in tmp_path.glob("killed/*/checkpoint.pt")}
    assert hosts == {"host0"}
    path = tmp_path / "killed" / "host0" / checkpoints.NAME
    kept = torch.load(path)
    assert kept["step"] == 3 and len(kept["random"]) == 2
    states = [state["torch"] for state in kept["random"]]
    assert not torch.equal(*states)  # each process draws its own dropout
    _, found = run_script(tmp_path / "killed", STOPPED)
    for one, two in zip(wanted, found, strict=True):
        assert (one["steps"], two["steps"]) == (8, 5)
        assert one["losses"] == two["losses"]
        assert torch.equal(one["random"], two["random"])
        equal(one["adapters"], two["adapters"])
    del kept["settings"]["profile"]
    settings = resolve("smoke", kept["settings"])
    torch.save({**kept, "settings": settings.flat()}, path)
    with pytest.raises(LabError, match=r"processes=2 \(now 1\)"):
        checkpoints.read(path.parent, settings, kept["data"])
    plain = settings.changed(lora_dropout=0.0)
    torch.save({**kept, "settings": plain.flat()}, path)
    assert checkpoints.read(path.parent, plain, kept["data"])["step"] == 3
    assert "processes=2 (now 1): bits may differ" in capsys.readouterr().out


def test_accelerate_launches_the_command_on_two_processes(tmp_path):
    out = tmp_path / "train"
    done = launch(
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--main_process_port", free_port(), "-m", "nbutils", "train", "--profile",
        "smoke", "--out", str(out), "--set", "steps_per_level=1", "--checkpoints",
        str(tmp_path / "kept"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained, seed 0 (2 processes)") == 2  # before and after
    folder = out / "students" / "seed0"
    assert json.loads((folder / "run.json").read_text())["processes"] == 2
    assert len(pd.read_csv(folder / "steps.csv")) == 4
    scores = pd.read_parquet(out / "scores.parquet")
    assert scores["run"].nunique() == 2 and not scores["ndcg"].isna().any()


def test_one_process_shares_with_nobody():
    assert processes.place() == (0, 1) and processes.is_main()
    assert list(processes.share(3)) == [0, 1, 2]
