"""The student: 4 bits, LoRA, both directions, templates, save and load, the cache."""

import contextlib
import shutil
import sqlite3

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    MultipleNegativesRankingLoss,
)
from tokenizers.normalizers import Lowercase
from transformers import DebertaV2Config, DebertaV2Model

from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT, resolve
from nbutils.encoder import backbone, models
from nbutils.encoder import vectors as vectors_module
from nbutils.encoder.student import (
    build_student,
    load_encoder,
    load_student,
    merge_student,
    save_student,
)
from nbutils.encoder.vectors import (
    _key,
    _vector_file,
    _write_vectors,
    embed,
    fingerprint,
)

TEXTS = ["Bees dance in the dark.", "A much longer text, padded or cut. " * 3, "Tax"]


@pytest.fixture(scope="module")
def settings():
    return resolve("smoke", {"device": "cpu", "compute_dtype": "float32"})


@pytest.fixture(scope="module")
def student(settings):
    return build_student(settings)


def vectors(model, settings, texts=TEXTS, prompt=None):
    return embed(model, texts, settings, prompt, cache=None)


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
    model = build_student(settings)
    before = vectors(model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    trained = vectors(model, settings)
    assert np.abs(trained - before).max() > 1e-3
    folder = save_student(model, tmp_path / "student")
    save_student(model, folder)  # again, over the first
    again = load_student(folder)
    assert np.allclose(vectors(again, settings), trained, atol=1e-6)
    assert fingerprint(again) == fingerprint(model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student"]


def test_eval_mode_before_training_keeps_the_gradient(settings):
    model = build_student(settings)
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
    model = build_student(settings)
    first = embed(model, TEXTS, settings, cache=tmp_path)
    assert np.array_equal(first, embed(model, TEXTS, settings, cache=tmp_path))
    with torch.no_grad():
        parameter = next(p for n, p in model.named_parameters() if "lora_B" in n)
        parameter[0, 0] += 0.5
    changed = embed(model, TEXTS, settings, cache=tmp_path)
    assert np.abs(changed - first).max() > 1e-6
    prompted = embed(model, TEXTS, settings, "Find it", cache=tmp_path)
    assert np.abs(prompted - changed).max() > 1e-6
    assert len(list(tmp_path.glob("*.sqlite"))) == 2


@pytest.mark.parametrize("which", ["student", "encoder"])
def test_one_bit_of_any_tensor_is_another_cache(settings, tmp_path, which):
    """4-bit codes and their scales, adapters, norms, tables: the lowest bit of one."""
    student = which == "student"
    model = build_student(settings) if student else (
        load_encoder(settings, "tiny-bert")
    )  # fmt: skip
    tensors = dict(model.named_parameters())
    scales = {
        f"{name} scale": parameter.quant_state.absmax
        for name, parameter in tensors.items()
        if hasattr(parameter, "quant_state")
    }
    assert bool(scales) == student
    before = fingerprint(model)
    seen = {before}
    first = embed(model, TEXTS, settings, cache=tmp_path)
    for name, tensor in (tensors | scales).items():
        bits = tensor.detach().view(-1).view(torch.uint8)
        bits[len(bits) // 2] ^= 1
        seen.add(fingerprint(model))
        if "norm" in name.lower():  # read from the cache, or encoded with this weight?
            cached = embed(model, TEXTS, settings, cache=tmp_path)
            fresh = embed(model, TEXTS, settings, cache=None)
            assert np.array_equal(cached, fresh)
        bits[len(bits) // 2] ^= 1
    assert len(seen) == 1 + len(tensors) + len(scales)
    assert fingerprint(model) == before
    assert np.array_equal(first, embed(model, TEXTS, settings, cache=tmp_path))


def test_the_cache_tells_dtypes_scales_and_tokenizers_apart(settings, tmp_path):
    model = build_student(settings)
    names = {_vector_file(tmp_path, model, settings)}
    half = settings.changed(compute_dtype="bfloat16")
    names.add(_vector_file(tmp_path, model, half))
    louder = build_student(settings.changed(lora_alpha=64))
    names.add(_vector_file(tmp_path, louder, settings))
    model.tokenizer.backend_tokenizer.normalizer = Lowercase()
    names.add(_vector_file(tmp_path, model, settings))
    assert len(names) == 4


def test_a_damaged_cache_is_made_anew(settings, tmp_path):
    model = build_student(settings)
    first = embed(model, TEXTS, settings, cache=tmp_path)
    (file,) = tmp_path.glob("*.sqlite")
    file.write_bytes(b"no database at all" * 100)
    assert np.array_equal(first, embed(model, TEXTS, settings, cache=tmp_path))


def test_a_cache_in_use_is_waited_for_and_never_thrown_away(settings, tmp_path):
    model = load_encoder(settings, "tiny-bert")
    first = embed(model, TEXTS, settings, cache=tmp_path)
    (file,) = tmp_path.glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # another process writes
        assert np.array_equal(first, embed(model, TEXTS, settings, cache=tmp_path))
        other.execute("ROLLBACK")
    many = [f"text {n}" for n in range(1200)]  # more than one question's worth of keys
    keys = [_key(text, None) for text in many]
    rows = np.arange(1200, dtype=np.float32)[:, None]
    _write_vectors(file, keys, rows)
    assert np.array_equal(embed(model, many, settings, cache=tmp_path), rows)


def test_a_student_of_other_settings_is_refused(settings, student, tmp_path):
    folder = save_student(student, tmp_path / "student")
    load_student(folder, settings)
    other = settings.changed(pooling="mean")
    with pytest.raises(LabError, match="trained with pooling='ata'"):
        load_student(folder, other)


def test_cached_vectors_are_read_not_encoded_again(settings, tmp_path, monkeypatch):
    model = build_student(settings)
    first = embed(model, TEXTS, settings, cache=tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("encoded again")

    monkeypatch.setattr(vectors_module, "_encode", refuse)
    assert np.array_equal(first, embed(model, TEXTS, settings, cache=tmp_path))


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
        load_encoder(settings, str(tmp_path / "nowhere"))
    with pytest.raises(LabError, match="holds no model"):
        load_encoder(settings, str(tmp_path))
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
    folder = save_student(student, tmp_path / "student")
    texts = [p.read_text() for p in folder.rglob("*.json")]
    assert len(texts) >= 4
    assert not any(str(ROOT) in text or "site-packages" in text for text in texts)


def trained(settings, size=0.05):
    """A student whose adapters are as if trained: far from their start."""
    model = build_student(settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(size * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def saved(settings, tmp_path_factory):
    model = trained(settings)
    folder = save_student(model, tmp_path_factory.mktemp("saved") / "model")
    return model, folder


def test_sentence_transformer_opens_the_folder_when_code_is_trusted(saved, settings):
    """Since 6.0 the library imports modules of another package only if told so."""
    model, folder = saved
    opened = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert np.allclose(opened.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert type(opened[0]) is backbone.Backbone
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(folder), device="cpu")


def test_merged_weights_stand_alone_and_give_the_same_vectors(
    saved, settings, tmp_path, monkeypatch
):
    model, _ = saved
    merged = merge_student(model)
    wanted = model.encode(TEXTS, prompt="Find it")
    assert np.allclose(merged.encode(TEXTS, prompt="Find it"), wanted, atol=1e-5)
    names = [name for name, _ in merged.named_parameters()]
    assert names and not any("lora" in name for name in names)
    folder = save_student(merged, tmp_path / "merged")
    assert not (folder / "0_Backbone" / "adapter").exists()

    def refuse(*args):
        raise AssertionError("the base model is looked for")

    monkeypatch.setattr(backbone, "tiny_folder", refuse)
    opened = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert np.allclose(opened.encode(TEXTS, prompt="Find it"), wanted, atol=1e-5)


def test_encode_takes_prompts_and_cuts_dimensions(saved):
    model, _ = saved
    plain, prompted = (model.encode(TEXTS, prompt=p) for p in (None, "Find it"))
    assert np.abs(plain - prompted).max() > 1e-4
    short = model.encode(TEXTS, truncate_dim=16, normalize_embeddings=True)
    wanted = plain[:, :16] / np.linalg.norm(plain[:, :16], axis=1, keepdims=True)
    assert np.allclose(short, wanted, atol=1e-5)
    named = SentenceTransformer(
        modules=list(model), prompts={"query": "Find it"}, device="cpu"
    )
    assert np.allclose(named.encode_query(TEXTS), prompted, atol=1e-6)


def test_several_processes_give_the_same_vectors(saved):
    _, folder = saved
    model = load_student(folder)
    wanted = model.encode(TEXTS * 2)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = model.encode(TEXTS * 2, pool=pool, chunk_size=3)
    finally:
        model.stop_multi_process_pool(pool)
    assert np.allclose(found, wanted, atol=1e-6)


def test_a_step_of_the_librarys_trainer_and_loss_moves_only_the_adapters(
    settings, tmp_path
):
    model = build_student(settings)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    data = {"anchor": TEXTS, "positive": ["Bees.", "Long.", "Tax law"]}
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), max_steps=1, report_to=[], learning_rate=1e-2,
            use_cpu=True, save_strategy="no", disable_tqdm=True, logging_strategy="no",
        ),
        train_dataset=Dataset.from_dict(data),
        loss=MultipleNegativesRankingLoss(model),
    ).train()  # fmt: skip
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("lora_" in name for name in moved)


def test_lora_is_on_every_linear_layer_and_nothing_is_upcast(student):
    base = student[0].model.get_base_model()
    linear = {
        name
        for name, module in base.named_modules()
        if type(module).__name__ == "Linear4bit" and name.endswith("base_layer")
    }
    assert len(linear) == 2 * 7  # q k v o gate up down in each of two layers
    plain = [n for n, m in base.named_modules() if type(m) is torch.nn.Linear]
    assert all("lora_" in name for name in plain)
    config = student[0].model.peft_config["default"]
    assert config.r == 16
    loaded = backbone.Backbone("tiny-mistral", quantization="nf4")
    kept = {n: p.dtype for n, p in loaded.model.named_parameters()}
    for name, parameter in base.named_parameters():
        bare = name.replace(".base_layer", "")
        if bare in kept:
            assert parameter.dtype == kept[bare], name


def test_direction_is_a_setting_of_the_whole_student(settings):
    """A later token changes an earlier hidden state only in both directions."""
    for both_ways in (True, False):
        model = build_student(settings.changed(bidirectional=both_ways))
        ids = torch.tensor([[1, 70, 80, 90], [1, 70, 80, 91]])
        with torch.no_grad():
            features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            hidden = model[0](features)["token_embeddings"]
        moved = float((hidden[0, 1] - hidden[1, 1]).abs().max())
        assert (moved > 1e-4) is both_ways


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "weighted_mean", "ata"])
def test_padding_side_changes_no_vector(settings, pooling):
    changed = {"pooling": pooling, "quantization": "none"}
    model = build_student(settings.changed(**changed))
    right = vectors(model, settings)
    model.tokenizer.padding_side = "left"
    features = model.preprocess(TEXTS)
    assert (features["attention_mask"][:, 0] == 0).any()
    assert np.allclose(vectors(model, settings), right, atol=1e-5)


def test_a_length_over_the_models_is_an_error(settings, student):
    with pytest.raises(LabError, match="over this model's 512: set max_length"):
        build_student(settings.changed(max_length=600))
    with pytest.raises(LabError, match="over this model's 512"):
        student.max_seq_length = 4096
    assert student.max_seq_length == settings.encoder.max_length


def test_a_backbone_whose_attention_cannot_be_tapped_is_an_error(settings, tmp_path):
    tokenizer = models.tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = DebertaV2Config(vocab_size=len(tokenizer), num_hidden_layers=1, **shape)
    DebertaV2Model(config).save_pretrained(tmp_path)
    own = {"student": str(tmp_path), "quantization": "none"}
    model = build_student(settings.changed(**own))
    with pytest.raises(LabError, match="cannot see this backbone's attention"):
        model.encode(TEXTS)
    mean = settings.changed(**{**own, "pooling": "mean"})
    assert np.isfinite(build_student(mean).encode(TEXTS)).all()


def test_transform_and_pooled_tokens_change_vectors_and_are_saved(settings, tmp_path):
    found = {}
    for change in (
        {}, {"ata_transform": "sum"}, {"ata_transform": "printed"},
        {"pooled_tokens": "all"}, {"pooled_tokens": "text"},
    ):  # fmt: skip
        model = build_student(settings.changed(**change))
        found[str(change)] = vectors(model, settings, prompt="Find it")
    values = list(found.values())
    for i, one in enumerate(values):
        for other in values[i + 1 :]:
            assert np.abs(one - other).max() > 1e-4
    again = load_student(save_student(model, tmp_path / "model"))
    got = vectors(again, settings, prompt="Find it")
    assert np.allclose(got, values[-1], atol=1e-6)
