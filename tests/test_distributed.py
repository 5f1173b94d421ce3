"""Two processes train as one does with the same global batch."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from nbutils import checkpoints, distributed

PAIR = """
import sys
import torch
from test_checkpoints import DATA
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


def launch(folder, path: str, processes: int) -> list[dict]:
    """What each process left. The launcher is the one that accelerate uses."""
    folder.mkdir()
    script = folder / "pair.py"
    script.write_text(PAIR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    command = [
        sys.executable, "-m", "torch.distributed.run", "--master-addr", "127.0.0.1",
        "--master-port", str(port), "--nproc-per-node", str(processes),
        str(script), str(folder), path,
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{i}.pt") for i in range(processes)]


@pytest.mark.parametrize("path", ["plain", "cached"])
def test_two_processes_train_as_one_does(tmp_path, path):
    (alone,) = launch(tmp_path / "one", path, 1)
    pair = launch(tmp_path / "two", path, 2)
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


def test_one_process_shares_with_nobody():
    assert distributed.place() == (0, 1) and distributed.is_main()
    assert list(distributed.share(3)) == [0, 1, 2]
