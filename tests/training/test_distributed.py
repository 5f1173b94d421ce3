"""Two processes train as one does with the same global batch, and go on as one."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import free_port

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.processes import is_main, place, share
from nbutils.training import checkpoints

PAIR = """
import sys
import torch
from training.test_checkpoints import DATA
from nbutils import checkpoints, distributed, encoder, gradcache, training
from nbutils.settings import resolve
changes = {"steps_per_level": 2, "warmup_steps": 2, "batch_size": 8, "mini_batch": 3,
           "compute_dtype": "float32", "checkpoint_every": 4, "learning_rate": 1e-4,
           "gradient_cache": sys.argv[2] == "cached"}
settings = resolve("smoke", changes)
model = encoder.build_student(settings)
torch.manual_seed(3)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.add_(0.05 * torch.randn_like(parameter))
exchanges = []
original = distributed._sum
distributed._sum = lambda tensor: exchanges.append(len(tensor)) or original(tensor)
batch = gradcache.make_batch(DATA[:8], "N2", settings, 0)
model.train()
loss = gradcache.backward(model, batch, settings)
found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
in_a_step = len(exchanges)
log = training.train(model, DATA, settings, progress=False,
                     checkpoint_folder=sys.argv[1] + "/checkpoints")
torch.save({"loss": loss, "gradients": found, "exchanges": in_a_step,
            "adapters": checkpoints.adapters(model), "place": distributed.place(),
            "losses": [row["loss"] for row in log.steps]},
           f"{sys.argv[1]}/{distributed.place()[0]}.pt")
"""


STOPPED = """
import os, signal, sys
import torch
from training.test_checkpoints import DATA
from nbutils import checkpoints, distributed, encoder, training
from nbutils.settings import resolve
folder, last = sys.argv[1], int(sys.argv[2])
changes = {"steps_per_level": 2, "warmup_steps": 2, "batch_size": 8, "mini_batch": 3,
           "checkpoint_every": 3, "lora_dropout": 0.3, "gradient_cache": True}
settings = resolve("smoke", changes)
model = encoder.build_student(settings)
number = distributed.place()[0]
original, calls = training.training_step, []
def step(*args):
    calls.append(1)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
training.training_step = step
# each process is a host of its own: only the main one's folder holds the checkpoint
log = training.train(model, DATA, settings, progress=False,
                     checkpoint_folder=f"{folder}/host{number}")
torch.save({"adapters": checkpoints.adapters(model), "steps": len(calls),
            "random": checkpoints.random_state(model.device),
            "losses": [row["loss"] for row in log.steps]}, f"{folder}/{number}.pt")
"""


def launch(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Run a launcher's command on the CPU; `test_…` modules can be imported there."""
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    cpu = {"PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        env={**os.environ, **cpu, **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )


def run_script(folder, text: str, processes: int, *arguments: str):
    """Run a script on some processes. The launcher is the one that accelerate uses."""
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(text)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--master-addr", "127.0.0.1",
        "--master-port", free_port(), "--nproc-per-node", str(processes),
        str(script), str(folder), *arguments,
    ]  # fmt: skip
    return launch(command)


def left(folder, processes: int) -> list[dict]:
    return [torch.load(folder / f"{i}.pt") for i in range(processes)]


def pair_of(folder, path: str, processes: int) -> list[dict]:
    """What each process of PAIR left."""
    done = run_script(folder, PAIR, processes, path)
    assert done.returncode == 0, done.stderr[-3000:]
    return left(folder, processes)


@pytest.mark.parametrize("path", ["plain", "cached"])
def test_two_processes_train_as_one_does(tmp_path, path):
    (alone,) = pair_of(tmp_path / "one", path, 1)
    pair = pair_of(tmp_path / "two", path, 2)
    assert [found["place"] for found in pair] == [(0, 2), (1, 2)]
    assert alone["exchanges"] == 0
    for found in pair:
        assert found["exchanges"] == 2  # vectors, then gradients: none a mini-batch
        assert float(found["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-5)
        largest = max(float(g.abs().max()) for g in alone["gradients"].values())
        assert largest > 1e-3
        for name, wanted in alone["gradients"].items():
            assert torch.allclose(found["gradients"][name], wanted, atol=1e-5), name
        for name, wanted in alone["adapters"].items():
            assert torch.allclose(found["adapters"][name], wanted, atol=1e-5), name
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    for name, tensor in pair[0]["adapters"].items():
        assert torch.equal(tensor, pair[1]["adapters"][name]), name
    kept = torch.load(tmp_path / "two" / "checkpoints" / checkpoints.NAME)
    assert kept["step"] == 8


def test_two_killed_processes_go_on_bit_for_bit(tmp_path, capsys):
    assert run_script(tmp_path / "whole", STOPPED, 2, "0").returncode == 0
    killed = run_script(tmp_path / "killed", STOPPED, 2, "6")
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr, killed.stderr[-2000:]
    assert not list(tmp_path.glob("killed/*.pt"))
    hosts = {path.parent.name for path in tmp_path.glob("killed/*/checkpoint.pt")}
    assert hosts == {"host0"}
    kept = torch.load(tmp_path / "killed" / "host0" / checkpoints.NAME)
    assert kept["step"] == 3 and len(kept["random"]) == 2
    states = [state["torch"] for state in kept["random"]]
    assert not torch.equal(*states)  # each process draws its own dropout
    again = run_script(tmp_path / "killed", STOPPED, 2, "0")
    assert again.returncode == 0, again.stderr[-3000:]
    wanted, found = left(tmp_path / "whole", 2), left(tmp_path / "killed", 2)
    for one, two in zip(wanted, found, strict=True):
        assert (one["steps"], two["steps"]) == (8, 5)
        assert one["losses"] == two["losses"]
        assert torch.equal(one["random"]["torch"], two["random"]["torch"])
        for name, tensor in one["adapters"].items():
            assert torch.equal(tensor, two["adapters"][name]), name
    settings = Settings(**kept["settings"])
    with pytest.raises(LabError, match="of a run with 2 processes, now there are 1"):
        checkpoints.read(tmp_path / "killed" / "host0", settings, kept["data"])
    plain = settings.changed(lora_dropout=0.0)
    path = tmp_path / "killed" / "host0" / checkpoints.NAME
    torch.save({**kept, "settings": plain.flat()}, path)
    assert checkpoints.read(path.parent, plain, kept["data"])["step"] == 3
    assert "of a run with 2 processes: bits may differ" in capsys.readouterr().out


def test_accelerate_launches_the_command_on_two_processes(tmp_path):
    out = tmp_path / "scores.csv"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
        "--num_processes", "2", "--main_process_port", free_port(), "-m", "nbutils",
        "train", "--profile", "smoke", "--out", str(out), "--set", "steps_per_level=1",
        "--checkpoints", str(tmp_path / "kept"),
    ]  # fmt: skip
    done = launch(command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("seed 0, 2 processes: scores in") == 1
    folder = tmp_path / "scores.students" / "seed0"
    assert json.loads((folder / "run.json").read_text())["processes"] == 2
    assert len(pd.read_csv(folder / "steps.csv")) == 4
    assert pd.read_csv(out)["seed"].unique().tolist() == [0]


def test_one_process_shares_with_nobody():
    assert place() == (0, 1) and is_main()
    assert list(share(3)) == [0, 1, 2]
