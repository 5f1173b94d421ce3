"""The machine a run finds, compared with what its settings need before it starts."""

import json
import os
import platform
import re
import resource
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil

from nbutils.core.errors import LabError
from nbutils.core.files import verify
from nbutils.core.sections import MINILM, SMOLLM2
from nbutils.core.settings import DATA, ROOT, Settings

PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "bitsandbytes",
            "mteb")  # fmt: skip
GB = 1024**3


def versions() -> dict[str, str]:
    """Python's, the main libraries' and this project's versions; none is imported."""
    found = {package: version(package) for package in PACKAGES}
    ours = version("hard-negatives-lab")
    return {"python": platform.python_version(), **found, "nbutils": ours}


def device_name() -> str:
    """The GPU's name where PyTorch has one, else "cpu". Does not import PyTorch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "cpu"


def describe_machine() -> None:
    """Print versions, device, cores and memory in one line."""
    import torch  # noqa: F401 - here, so that its import counts as import, not as work

    names = ", ".join(f"{k} {v}" for k, v in versions().items() if k != "nbutils")
    libraries = names.replace("sentence-transformers", "ST")
    device, memory = device_name(), psutil.virtual_memory().total / GB
    device = "CPU" if device == "cpu" else device
    print(f"{libraries} · {device}, {psutil.cpu_count()} cores, {memory:.0f} GB")


def peak_memory_gb() -> float:
    """The largest resident memory this process has had, in GB."""
    with suppress(OSError):  # Linux; `ru_maxrss` starts at the launching process's
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\D+(\d+)", status)[1]) * 1024 / GB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB


def cache_folder() -> Path:
    """The folder of all that can be made again: models and vectors.

    NBUTILS_CACHE (from the project's root, if relative), else the project's .cache;
    where that cannot be written the user's cache, and without a home a temporary one.
    """
    if named := os.environ.get("NBUTILS_CACHE"):
        return ROOT / Path(named).expanduser()
    own = ROOT / ".cache"
    if os.access(own if own.exists() else ROOT, os.W_OK):
        return own
    users = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    there = next(folder for folder in (users, *users.parents) if folder.exists())
    usable = users.is_absolute() and os.access(there, os.W_OK)
    return (users if usable else Path(tempfile.gettempdir())) / "nbutils"


def model_folder(name: str) -> Path:
    """Where a fetched model is kept, or would be."""
    return cache_folder() / "models" / name.rpartition("/")[2]


def fetched(name: str) -> Path:
    """The folder of a fetched model, every file of its full length; none is read.

    LabError says how to fetch the model.
    """
    folder = model_folder(name)
    with suppress(OSError, ValueError, LookupError, TypeError):
        sizes = json.loads((folder / "origin.json").read_text())["bytes"]
        if all((folder / file).stat().st_size == size for file, size in sizes.items()):
            return folder
    raise LabError(
        f"{name} is not in {folder}, or not whole: "
        "run 'python -m nbutils fetch' once, with a network"
    )


def network_needs(settings: Settings) -> list[str]:
    """What these settings would fetch or ask for over the network; may be empty."""
    needs = ["a language model"] if settings.llm.mode != "replay" else []
    encoder, mining = settings.encoder, settings.mining
    models = [encoder.student, encoder.reference, *mining.teachers, mining.rescore_with]
    for name in filter(None, dict.fromkeys(models)):
        here = Path(ROOT, name).is_dir() or Path(name).is_dir()
        shipped = name in ("bm25", "random", MINILM, SMOLLM2)
        if name.startswith("server:"):
            needs.append(f"an embeddings server of {name.removeprefix('server:')}")
        elif not (here or shipped or name.startswith(("tiny-", "vectors:"))):
            needs.append(name)
    tasks = settings.evaluation.tasks
    return needs + [f"mteb's {name}" for name in tasks if name != "local"]


def environment(settings: Settings) -> dict[str, str]:
    """Environment variables of a run: no needless network, no progress bars."""
    on = ["HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS",
          "HF_DATASETS_DISABLE_PROGRESS_BARS"]  # fmt: skip
    if set(network_needs(settings)) <= {"a language model"}:
        on += ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    # where others work too, two threads that spin while they wait took 2.5 times as
    # long as one
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return {"OMP_WAIT_POLICY": policy, **quiet, **dict.fromkeys(on, "1")}


def check_machine(settings: Settings) -> None:
    """LabError for a run that this machine cannot finish: before anything starts.

    It lacks memory, a GPU or, in live mode, a key; or published figures were changed.
    """
    free = psutil.virtual_memory().available / GB
    if free < settings.min_memory_gb:
        raise LabError(
            f"only {free:.1f} GB of memory are free and min_memory_gb is "
            f"{settings.min_memory_gb:g}: close other programs, take the smoke "
            "profile, or lower min_memory_gb"
        )
    if settings.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise LabError(
                "device is 'cuda', which needs a CUDA GPU, and PyTorch finds none: set "
                "device to 'cpu', or take the profile workshop or smoke"
            )
    keys = ("OPENAI_API_KEY", "OPENAI_BASE_URL")
    if settings.llm.mode != "replay" and not any(map(os.environ.get, keys)):
        raise LabError(
            f"llm_mode is {settings.llm.mode!r}, but {' and '.join(keys)} are not set: "
            "export the key (and the URL, for a server other than OpenAI's), or set "
            "llm_mode to 'replay'"
        )
    verify(DATA / "published")
