"""Where models come from, and where they run."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer
from transformers import AutoModel, ByT5Tokenizer

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.encoder.student import build_student, load_encoder, load_student
from nbutils.encoder.vectors import embed, fingerprint


def test_minilm_is_the_official_model_and_a_changed_file_is_refused(
    tmp_path, monkeypatch
):
    weights = models.minilm_folder() / models.WEIGHTS
    assert weights.stat().st_size == 90868376
    (tmp_path / models.WEIGHTS).write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setattr(
        models, "cached_weights", lambda name: tmp_path / models.WEIGHTS
    )
    models.minilm_folder.cache_clear()
    try:
        with pytest.raises(LabError, match="wrong sha256"):
            models.minilm_folder()
    finally:
        models.minilm_folder.cache_clear()


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


def static(base):
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    return [modules.StaticEmbedding(tokenizer, embedding_dim=32)]


def without_a_fast_tokenizer(base):
    AutoModel.from_pretrained(base).save_pretrained(base / "slow")
    ByT5Tokenizer().save_pretrained(base / "slow")
    return [Transformer(str(base / "slow")), modules.Pooling(64)]


PEOPLES = {
    "prompts": lambda base: [Transformer(str(base)), modules.Pooling(64, "cls")],
    "dense": lambda base: [
        Transformer(str(base)), modules.Pooling(64), Dense(64, 8),
    ],
    "static": static,
    "bag of words": lambda base: [modules.BoW(vocab=["bees", "dance", "tax"])],
    "slow": without_a_fast_tokenizer,
}  # fmt: skip
"""Encoders that people bring, from a folder of a BERT."""


@pytest.mark.parametrize("default", [None, "query"])
@pytest.mark.parametrize("kind", PEOPLES)
def test_peoples_encoders_give_the_vectors_of_their_own_roles(kind, default, tmp_path):
    settings, texts = resolve("smoke", {"device": "cpu"}), ["bees dance", "a tax"]
    settings = settings.changed(compute_dtype="float32")
    model = SentenceTransformer(
        modules=PEOPLES[kind](models.tiny_folder("tiny-bert", tmp_path)), device="cpu",
        prompts={"query": "dance: ", "passage": "tax: "}, default_prompt_name=default,
    )  # fmt: skip
    model.save(str(tmp_path / "model"), create_model_card=False)
    found = load_encoder(settings, str(tmp_path / "model"))
    for role in ("query", "document", ""):
        encode = getattr(model, f"encode_{role}" if role else "encode")
        for prompt in (None, "bees "):
            wanted = encode(texts, prompt=prompt, normalize_embeddings=True)
            for _ in range(2):  # made, then read
                given = {"role": role, "cache": tmp_path / "cache"}
                vectors = embed(found, texts, settings, prompt, **given)
                assert np.allclose(vectors, wanted, atol=1e-6), (role, prompt)
    again = load_encoder(settings, str(tmp_path / "model"))
    assert fingerprint(again) == fingerprint(found)
