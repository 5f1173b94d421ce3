"""Where models come from, and where they run."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    Pooling,
    StaticEmbedding,
)
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
    weights, changed = models.minilm_folder() / models.WEIGHTS, tmp_path / "changed"
    assert weights.stat().st_size == 90868376
    changed.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *name: str(changed))
    with pytest.raises(LabError, match="wrong sha256"):
        models.minilm_folder.__wrapped__()


def test_a_missing_model_is_a_clear_error(settings, tmp_path):
    for name in (str(tmp_path / "nowhere"), "./nowhere", str(tmp_path)):
        with pytest.raises(LabError, match=r"cannot be loaded .*: give a folder"):
            load_encoder(settings, name)
        with pytest.raises(LabError, match=r"cannot be loaded .*: give a folder"):
            build_student(settings.changed(student=name))
    with pytest.raises(LabError, match="run notebook 05 first"):
        load_student(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_a_clear_error():
    with pytest.raises(LabError, match="--profile workshop"):
        build_student(resolve("paper"))


def test_one_gpu_of_several_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    for device in ("cuda", "cuda:1"):
        assert models.compute_dtype("auto", device) == torch.bfloat16
    assert models.compute_dtype("float32", "cuda") == torch.float32
    assert models.compute_dtype("auto", "cpu") == torch.float32


def without_a_fast_tokenizer(base):
    AutoModel.from_pretrained(base).save_pretrained(base / "slow")
    ByT5Tokenizer().save_pretrained(base / "slow")
    return [Transformer(str(base / "slow")), Pooling(64)]


def static(base):
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    return [StaticEmbedding(tokenizer, embedding_dim=32)]


PEOPLES = {
    "": lambda base: [Transformer(str(base)), Pooling(64, "cls")],
    "its Dense would be lost; set student": lambda base: [
        Transformer(str(base)), Pooling(64), Dense(64, 8),
    ],
    "its StaticEmbedding would be lost": static,
    "its BoW would be lost": lambda base: [BoW(vocab=["bees", "dance", "tax"])],
    "its tokenizer does not say": without_a_fast_tokenizer,
}  # fmt: skip
"""Encoders that people bring, made of a BERT, by why no student is made of them."""


@pytest.mark.parametrize("default", [None, "query"])
@pytest.mark.parametrize("lacks", PEOPLES)
def test_peoples_encoders_give_the_vectors_of_their_own_roles(
    lacks, default, settings, tmp_path
):
    texts, folder = ["bees dance", "a tax"], str(tmp_path / "model")
    model = SentenceTransformer(
        modules=PEOPLES[lacks](models.tiny_folder("tiny-bert", tmp_path)), device="cpu",
        prompts={"query": "dance: ", "passage": "tax: "}, default_prompt_name=default,
    )  # fmt: skip
    model.save(folder, create_model_card=False)
    found = load_encoder(settings, folder)
    for role in ("query", "document", ""):
        encode = getattr(model, f"encode_{role}" if role else "encode")
        for prompt in (None, "bees "):
            wanted = encode(texts, prompt=prompt, normalize_embeddings=True)
            for _ in range(2):  # made, then read
                given = {"role": role, "cache": tmp_path / "cache"}
                vectors = embed(found, texts, settings, prompt, **given)
                assert np.allclose(vectors, wanted, atol=1e-6), (role, prompt)
    assert fingerprint(load_encoder(settings, folder)) == fingerprint(found)
    refused = pytest.raises(LabError, match=lacks) if lacks else nullcontext()
    with refused:
        build_student(settings.changed(student=folder))
