"""Vectors on disk: never those of anything else, never one that is no vector."""

import contextlib
import sqlite3

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from tokenizers.normalizers import Lowercase

from nbutils.core.errors import LabError
from nbutils.encoder.student import build_student, load_encoder
from nbutils.encoder.vectors import embed, fingerprint, kept

TEXTS = ["Bees dance in the dark.", "A much longer text, padded or cut. " * 3, "Tax"]


@pytest.fixture(scope="module")
def encoder(settings):
    return load_encoder(settings, "tiny-bert")


def refuse(*args, **kwargs):
    raise AssertionError("encoded again")


def test_vectors_are_unit_in_order_and_read_not_encoded_again(
    encoder, settings, tmp_path, monkeypatch
):
    first = embed(encoder, [*TEXTS, TEXTS[0]], settings, cache=tmp_path)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    alone = embed(encoder, TEXTS[2:], settings, cache=None)
    assert np.allclose(first[2:3], alone, atol=1e-5)  # padding changes nothing
    assert embed(encoder, [], settings, cache=tmp_path).shape == (0, 64)
    monkeypatch.setattr(encoder, "encode", refuse)
    again = embed(encoder, TEXTS, settings, cache=tmp_path)
    assert np.array_equal(again, first[:3]) and np.array_equal(first[3], first[0])


@pytest.mark.parametrize("which", ["student", "encoder"])
def test_one_bit_of_any_tensor_is_another_cache(settings, tmp_path, which):
    """4-bit codes and their scales, adapters, norms, tables: the lowest bit of one."""
    student = which == "student"
    model = build_student(settings) if student else load_encoder(settings, "tiny-bert")
    tensors = dict(model.named_parameters())
    scales = {
        f"{name} scale": p.quant_state.absmax
        for name, p in tensors.items()
        if hasattr(p, "quant_state")
    }
    assert bool(scales) == student
    tensors |= scales
    first = embed(model, TEXTS, settings, cache=tmp_path)
    seen = {fingerprint(model)}
    for name, tensor in tensors.items():
        bits = tensor.detach().view(-1).view(torch.uint8)
        bits[len(bits) // 2] ^= 1
        seen.add(fingerprint(model))
        if "norm" in name.lower():  # read from the cache, or encoded with this weight?
            cached = embed(model, TEXTS, settings, cache=tmp_path)
            fresh = embed(model, TEXTS, settings, cache=None)
            assert np.array_equal(cached, fresh)
        bits[len(bits) // 2] ^= 1
    assert len(seen) == 1 + len(tensors)
    assert np.array_equal(first, embed(model, TEXTS, settings, cache=tmp_path))


CHANGES = {
    "length": lambda m: setattr(m, "max_seq_length", 32),
    "width": lambda m: setattr(m, "truncate_dim", 16),
    "prompts": lambda m: m.prompts.update(query="Find it"),
    "default prompt": lambda m: setattr(m, "default_prompt_name", "query"),
    "padding side": lambda m: setattr(m.tokenizer, "padding_side", "left"),
    "tokenizer": lambda m: setattr(
        m.tokenizer.backend_tokenizer, "normalizer", Lowercase()
    ),
    "pooling": lambda m: setattr(m[1], "mode", "mean"),
    "architecture": lambda m: setattr(m[0].model.config, "rms_norm_eps", 1e-3),
    "adapters off": lambda m: m.disable_adapters(),
    "adapters on": lambda m: m.enable_adapters(),
    "second adapter": lambda m: m.add_adapter(
        m[0].model.peft_config["default"], "second"
    ),
    "active adapter": lambda m: m.set_adapter("default"),
}


def test_whatever_changes_a_vector_changes_the_fingerprint(settings):
    model, seen = build_student(settings), []
    for name, change in {"nothing": lambda m: None, **CHANGES}.items():
        change(model)
        found = fingerprint(model)
        back = name == "adapters on"  # as before they were off
        assert (found in seen) == back and (not back or found == seen[-2]), name
        seen.append(found)
    louder = build_student(settings.changed(lora_alpha=64))
    assert fingerprint(louder) != seen[0] == fingerprint(build_student(settings))


def test_the_route_of_a_router_is_told_apart(encoder):
    routes = {name: list(encoder) for name in ("query", "document")}
    routers = (Router(routes, default_route=route) for route in routes)
    seen = {fingerprint(SentenceTransformer(modules=[router])) for router in routers}
    assert len(seen) == 2


def test_prompts_and_dtypes_have_vectors_of_their_own(settings, tmp_path):
    model = build_student(settings)
    plain = embed(model, TEXTS, settings, cache=tmp_path)
    prompted = embed(model, TEXTS, settings, "Find it", cache=tmp_path)
    assert np.abs(prompted - plain).max() > 1e-6
    half = settings.changed(compute_dtype="bfloat16")
    assert np.abs(embed(model, TEXTS, half, cache=tmp_path) - plain).max() > 1e-6
    assert len(list(tmp_path.glob("*.sqlite"))) == 2
    model.prompts["query"], model.default_prompt_name = "Find it", "query"
    found = [embed(model, TEXTS, settings, p, cache=tmp_path) for p in (None, "")]
    assert np.array_equal(found[0], prompted) and np.array_equal(found[1], plain)


def test_a_cache_in_use_is_waited_for_and_a_damaged_one_made_anew(
    encoder, settings, tmp_path
):
    first = embed(encoder, TEXTS, settings, cache=tmp_path)
    (file,) = tmp_path.glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # another process writes
        assert np.array_equal(first, embed(encoder, TEXTS, settings, cache=tmp_path))
        other.execute("ROLLBACK")
    file.write_bytes(b"no database at all" * 100)
    assert np.array_equal(first, embed(encoder, TEXTS, settings, cache=tmp_path))


def test_each_batch_is_kept_as_it_comes(tmp_path):
    texts = [f"text {n}" for n in range(1200)]  # more than one question's worth of keys
    rows = np.random.default_rng(0).random((1200, 2), dtype=np.float32)

    def make(missing):
        assert missing == texts
        yield rows[:800]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        kept(tmp_path / "v.sqlite", texts, "", make)
    rest = kept(tmp_path / "v.sqlite", texts, "", lambda new: [rows[-len(new) :]])
    assert np.array_equal(rest, rows)
    assert np.array_equal(kept(tmp_path / "v.sqlite", texts, "", refuse), rows)


@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.inf, 0.0], [1.0], [[1.0, 2.0]]])
def test_what_is_no_vector_of_the_others_width_is_named_and_not_kept(tmp_path, bad):
    path = tmp_path / "v.sqlite"
    kept(path, ["good"], "", lambda new: [[[0.0, 1.0]]])
    for place in (path, None):
        with pytest.raises(LabError, match="vector of 'bees' is not 2 finite numbers"):
            kept(place, ["tax", "bees"], "", lambda new: [[[1.0, 0.0]], [bad]])
    found = kept(path, ["tax", "bees"], "", lambda new: [[[5.0, 5.0]] * len(new)])
    assert found.tolist() == [[1, 0], [5, 5]]
