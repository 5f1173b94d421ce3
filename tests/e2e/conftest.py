"""A browser and the project's own JupyterLab, on copies of the pages; skips say why."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from nbutils.core.settings import ROOT

BROWSERS = "chromium", "chromium-browser", "google-chrome"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are drawn
}
SMOKE = 'profile: str = "smoke"\noverrides: dict = {{}}\nout: str = "{}"'


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: make e2e")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}): install Chromium")
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield made
        made.close()


@pytest.fixture(scope="session")
def copies(tmp_path_factory) -> Path:
    """The pages without outputs, in profile smoke, writing into the same folder."""
    folder = tmp_path_factory.mktemp("lab")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        page = nbformat.read(path, as_version=4)
        for cell in page.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = SMOKE.format(folder / "runs")
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
        nbformat.write(page, folder / path.name)
    return folder


@pytest.fixture(scope="session")
def lab(browser, copies, tmp_path_factory):
    """The address of JupyterLab, started as `make lab` does, on a port that is taken.

    It has no settings, extensions or kernels of whoever runs this.
    """
    home = tmp_path_factory.mktemp("home")
    names = "CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"
    own = {f"JUPYTER_{name}": str(home / name) for name in names}
    names = "SETTINGS_DIR", "WORKSPACES_DIR"
    own |= {f"JUPYTERLAB_{name}": str(home / name) for name in names}
    for name, values in SETTINGS.items():
        path = home / "SETTINGS_DIR/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        open(home / "log", "w") as log,
    ):
        port = taken.getsockname()[1]
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
            f"--port={port}", f"--ServerApp.root_dir={copies}", "--LabApp.token=",
            "--ServerApp.disable_check_xsrf=True",
        ]  # fmt: skip
        server = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log,
            env={**os.environ, **own, "JUPYTER_PREFER_ENV_PATH": "1"},
        )  # fmt: skip
        try:
            yield _address(home, server, port)
        finally:
            server.terminate()
            server.wait(30)


def _address(home: Path, server: subprocess.Popen, taken: int) -> str:
    for _ in range(120):
        time.sleep(0.5)
        found = list(home.glob("RUNTIME_DIR/jpserver-*.json"))
        if found or server.poll() is not None:
            break
    log = (home / "log").read_text()
    assert found, f"JupyterLab does not start: {log}"
    about = json.loads(found[0].read_text())
    assert about["port"] != taken and f"port {taken} is already in use" in log
    return about["url"]
