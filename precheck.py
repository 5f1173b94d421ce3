"""Can this machine run the lab? `python3 precheck.py`, before anything is installed.

Only the standard library is used. One line a check, [OK], [WARN] or [FAIL], with its
remedy; exit status 1 where a check failed.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import webbrowser
from pathlib import Path

HERE = Path(__file__).resolve().parent
DISK_GB, MEMORY_GB, CORES = 6, 7, 2


def python():
    """3.11 or newer, with venv and pip."""
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036, an older Python may run this
        return "FAIL", f"Python {version}", "install 3.11: make PYTHON=python3.11"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "FAIL", f"Python {version} without venv", "apt install python3-venv"
    return "OK", f"Python {version}", ""


def disk():
    """Room for the environment, the models and the runs."""
    free = shutil.disk_usage(HERE).free / 1e9
    state = "OK" if free > DISK_GB else "FAIL"
    return state, f"{free:.0f} GB free", f"make room: {DISK_GB} GB are needed"


def memory():
    """Memory in all, where the system tells it."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return "WARN", "memory unknown", f"{MEMORY_GB} GB are needed"
    state = "OK" if total > MEMORY_GB else "FAIL"
    return state, f"{total:.0f} GB memory", "use --profile smoke, or a larger machine"


def cores():
    """Processors that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    count = count or os.cpu_count() or 1
    state = "OK" if count >= CORES else "WARN"
    return state, f"{count} cores", "pages take about twice as long on one"


def bfloat16():
    """Whether the processor multiplies in bfloat16 (Linux tells)."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    if any(flag in text for flag in ("avx512_bf16", "amx_bf16", "bf16")):
        return "OK", "bfloat16 in the processor", ""
    advice = "the lab computes in float32 by itself: pages take up to twice as long"
    return "WARN", "no bfloat16 in the processor", advice


def write_rights():
    """The folder of the lab can be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=HERE):
            return "OK", f"{HERE} can be written", ""
    except OSError as error:
        return "FAIL", f"{HERE}: {error.strerror}", "clone into a folder of your own"


def make():
    """The commands that the README names."""
    missing = [name for name in ("make", "git") if shutil.which(name) is None]
    text = f"{', '.join(missing)} missing" if missing else "make and git"
    return ("FAIL" if missing else "OK"), text, "apt install make git"


def browser():
    """Something that opens JupyterLab."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        advice = "make lab ARGS=--no-browser, and open the address it prints elsewhere"
        return "WARN", "no browser found", advice
    return "OK", "a browser", ""


def network():
    """Your package index answers to pip, with its own settings and proxies."""
    command = [sys.executable, "-m", "pip", "index", "versions", "wheel"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20)
        reached = done.returncode == 0
    except subprocess.TimeoutExpired:
        reached = False
    if not reached:
        advice = "set HTTPS_PROXY or PIP_INDEX_URL; after set-up no network is needed"
        return "WARN", "pip reaches no package index", advice
    return "OK", "pip reaches a package index", ""


CHECKS = (python, make, disk, memory, cores, bfloat16, write_rights, browser, network)


def main():
    """Print a line a check; 1 where one failed."""
    failed = 0
    for check in CHECKS:
        began = time.perf_counter()
        state, text, advice = check()
        failed += state == "FAIL"
        told = text if state == "OK" else f"{text}: {advice}"
        print(
            f"[{state}] {check.__name__}: {told} ({time.perf_counter() - began:.1f} s)"
        )
    print("ready: make run" if not failed else f"{failed} to mend first")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
