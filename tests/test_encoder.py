"""The student: 4 bits, LoRA, both directions, templates, save and load, the cache."""

import shutil

import numpy as np
import pytest
import torch
from tokenizers.normalizers import Lowercase

from nbutils import backbone, encoder, models
from nbutils.errors import LabError
from nbutils.settings import ROOT, resolve

TEXTS = ["Bees dance in the dark.", "A much longer text, padded or cut. " * 3, "Tax"]


@pytest.fixture(scope="module")
def settings():
    return resolve("smoke", {"device": "cpu", "compute_dtype": "float32"})


@pytest.fixture(scope="module")
def student(settings):
    return encoder.build_student(settings)


def vectors(model, settings, texts=TEXTS, prompt=None):
    return encoder.embed(model, texts, settings, prompt, cache=None)


def test_student_is_4_bit_mistral_with_trainable_adapters_only(student):
    kinds = {type(m).__name__ for m in student.modules()}
    assert {"Linear4bit", "MistralModel"} <= kinds
    trainable = [n for n, p in student.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)


def test_vectors_are_unit_and_in_order(student, settings):
    both = vectors(student, settings)
    assert np.allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    alone = vectors(student, settings, TEXTS[2:])
    assert np.allclose(both[2:], alone, atol=1e-5)  # padding changes nothing


def test_a_later_token_changes_an_earlier_state_only_in_both_directions():
    moved = {}
    for both_ways in (True, False):
        model = models.tiny_model("tiny-mistral", 100)
        if both_ways:
            backbone.make_bidirectional(model)
        with torch.no_grad():
            a = model(torch.tensor([[5, 6, 7, 8]])).last_hidden_state
            b = model(torch.tensor([[5, 6, 7, 9]])).last_hidden_state
        moved[both_ways] = float((a[0, 0] - b[0, 0]).abs().max())
    assert moved[True] > 1e-4
    assert moved[False] == 0


def test_save_load_gives_the_same_vectors_also_after_training(settings, tmp_path):
    model = encoder.build_student(settings)
    before = vectors(model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    trained = vectors(model, settings)
    assert np.abs(trained - before).max() > 1e-3
    folder = encoder.save_student(model, tmp_path / "student")
    encoder.save_student(model, folder)  # again, over the first
    again = encoder.load_student(folder)
    assert np.allclose(vectors(again, settings), trained, atol=1e-6)
    assert encoder.fingerprint(again) == encoder.fingerprint(model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student"]


def test_eval_mode_before_training_keeps_the_gradient(settings):
    model = encoder.build_student(settings)
    model.eval()
    vectors(model, settings)
    model.train()
    features = model.preprocess(TEXTS)
    model(features)["sentence_embedding"].sum().backward()
    norms = [p.grad.norm() for n, p in model.named_parameters() if "lora_B" in n]
    assert all(norm > 0 for norm in norms)


def test_template_mask_leaves_out_the_instruction_and_keeps_the_end(student):
    features = student[0].preprocess(["tax"], prompt="Find it")
    tokens = student.tokenizer.convert_ids_to_tokens(features["input_ids"][0])
    kept = [t for t, m in zip(tokens, features["pooling_mask"][0], strict=True) if m]
    assert tokens[:2] == ["<s>", "[INST]"]
    assert kept[-1] == "[/INST]"
    written = student.tokenizer.convert_tokens_to_string(kept[:-1]).strip()
    assert written == "tax"
    long = student[0].preprocess(["word " * 400], prompt="Find it")
    assert long["input_ids"].shape[1] <= student[0].max_seq_length
    last = student.tokenizer.convert_ids_to_tokens(long["input_ids"][0])[-1]
    assert last == "[/INST]"


def test_an_instruction_that_fills_the_length_is_an_error(student):
    with pytest.raises(LabError, match="shorten it or raise max_length"):
        student[0].preprocess(["tax"], prompt="very long instruction " * 60)


def test_the_cache_never_serves_vectors_of_other_weights(settings, tmp_path):
    model = encoder.build_student(settings)
    first = encoder.embed(model, TEXTS, settings, cache=tmp_path)
    assert np.array_equal(first, encoder.embed(model, TEXTS, settings, cache=tmp_path))
    with torch.no_grad():
        parameter = next(p for n, p in model.named_parameters() if "lora_B" in n)
        parameter[0, 0] += 0.5
    changed = encoder.embed(model, TEXTS, settings, cache=tmp_path)
    assert np.abs(changed - first).max() > 1e-6
    prompted = encoder.embed(model, TEXTS, settings, "Find it", cache=tmp_path)
    assert np.abs(prompted - changed).max() > 1e-6
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


def test_the_cache_tells_dtypes_scales_and_tokenizers_apart(settings, tmp_path):
    model = encoder.build_student(settings)
    names = {encoder._vector_file(tmp_path, model, settings)}
    half = settings.model_copy(update={"compute_dtype": "bfloat16"})
    names.add(encoder._vector_file(tmp_path, model, half))
    louder = encoder.build_student(settings.model_copy(update={"lora_alpha": 64}))
    names.add(encoder._vector_file(tmp_path, louder, settings))
    model.tokenizer.backend_tokenizer.normalizer = Lowercase()
    names.add(encoder._vector_file(tmp_path, model, settings))
    assert len(names) == 4


def test_a_damaged_cache_is_made_anew(settings, tmp_path):
    model = encoder.build_student(settings)
    first = encoder.embed(model, TEXTS, settings, cache=tmp_path)
    (file,) = tmp_path.glob("*.sqlite")
    file.write_bytes(b"no database at all" * 100)
    assert np.array_equal(first, encoder.embed(model, TEXTS, settings, cache=tmp_path))


def test_a_student_of_other_settings_is_refused(settings, student, tmp_path):
    folder = encoder.save_student(student, tmp_path / "student")
    encoder.load_student(folder, settings)
    other = settings.model_copy(update={"pooling": "mean"})
    with pytest.raises(LabError, match="trained with pooling='ata'"):
        encoder.load_student(folder, other)


def test_cached_vectors_are_read_not_encoded_again(settings, tmp_path, monkeypatch):
    model = encoder.build_student(settings)
    first = encoder.embed(model, TEXTS, settings, cache=tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("encoded again")

    monkeypatch.setattr(encoder, "_encode", refuse)
    assert np.array_equal(first, encoder.embed(model, TEXTS, settings, cache=tmp_path))


def test_minilm_is_the_official_model_and_a_changed_file_is_refused(
    tmp_path, monkeypatch
):
    folder = models.minilm_folder()
    assert (folder / "model.safetensors").stat().st_size == 90868376
    copy = tmp_path / "model"
    copy.mkdir()
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    monkeypatch.setattr(models, "cached_snapshot", lambda name: copy)
    models.minilm_folder.cache_clear()
    try:
        with pytest.raises(LabError, match="wrong sha256"):
            models.minilm_folder()
    finally:
        models.minilm_folder.cache_clear()
    shutil.rmtree(copy)


def test_a_missing_model_is_a_clear_error(settings, tmp_path):
    with pytest.raises(LabError, match="does not exist"):
        encoder.load_encoder(settings, str(tmp_path / "nowhere"))
    with pytest.raises(LabError, match="holds no model"):
        encoder.load_encoder(settings, str(tmp_path))
    with pytest.raises(LabError, match="run notebook 05 first"):
        encoder.load_student(tmp_path)


def test_a_gpu_that_is_not_there_is_a_clear_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(LabError, match="--profile workshop"):
        encoder.build_student(resolve("paper"))


def test_padding_changes_nothing_in_either_direction():
    for both_ways in (True, False):
        model = models.tiny_model("tiny-mistral", 100)
        if both_ways:
            backbone.make_bidirectional(model)
        with torch.no_grad():
            alone = model(torch.tensor([[5, 6, 7]])).last_hidden_state
            padded = model(
                torch.tensor([[5, 6, 7, 0, 0]]),
                attention_mask=torch.tensor([[1, 1, 1, 0, 0]]),
            ).last_hidden_state
        assert torch.allclose(alone, padded[:, :3], atol=1e-5)


def test_a_saved_student_names_no_folder_of_this_machine(student, tmp_path):
    folder = encoder.save_student(student, tmp_path / "student")
    texts = [p.read_text() for p in folder.rglob("*.json")]
    assert len(texts) >= 4
    assert not any(str(ROOT) in text or "site-packages" in text for text in texts)
