"""Where models come from, and where they run."""

import pytest
import torch

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.encoder.student import build_student, load_encoder, load_student


def test_minilm_is_the_official_model_and_a_changed_file_is_refused(
    tmp_path, monkeypatch
):
    weights = models.minilm_folder() / "model.safetensors"
    assert weights.stat().st_size == 90868376
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    monkeypatch.setattr(models, "cached_snapshot", lambda name: tmp_path)
    models.minilm_folder.cache_clear()
    try:
        with pytest.raises(LabError, match="wrong sha256"):
            models.minilm_folder()
    finally:
        models.minilm_folder.cache_clear()
    (tmp_path / "model.safetensors").unlink()


def test_a_missing_model_is_a_clear_error(tmp_path):
    settings = resolve("smoke", {"device": "cpu"})
    for name in (str(tmp_path / "nowhere"), "./nowhere", str(tmp_path)):
        with pytest.raises(LabError, match=r"cannot be loaded .*: give a folder"):
            load_encoder(settings, name)
        with pytest.raises(LabError, match=r"cannot be loaded .*: give a folder"):
            build_student(settings.changed(student=name))
    with pytest.raises(LabError, match="run notebook 05 first"):
        load_student(tmp_path)


def test_a_gpu_that_is_not_there_is_a_clear_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(LabError, match="--profile workshop"):
        build_student(resolve("paper"))


def test_one_gpu_of_several_is_a_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or True
    )
    for device in ("cuda", "cuda:1"):
        assert models.compute_dtype("auto", device) == torch.bfloat16
    assert len(asked) == 2
    assert models.compute_dtype("float32", "cuda") == torch.float32
