"""The student: 4 bits, LoRA, both directions, save and load, old folders, merging."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from datasets import Dataset
from peft import LoraConfig, PeftModel
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel

from nbutils.core.errors import LabError
from nbutils.core.sections import MINILM, Encoder
from nbutils.core.settings import DATA, ROOT, resolve
from nbutils.encoder import models
from nbutils.encoder.backbone import Backbone
from nbutils.encoder.student import (
    build_student,
    export_student,
    load_encoder,
    load_student,
    save_student,
    unpack_student,
)
from nbutils.encoder.vectors import embed, fingerprint

TEXTS = ["Bees dance in the dark.", "A much longer text, padded or cut. " * 3, "Tax"]


def trained(settings, **changes):
    """A student whose adapters are as if trained."""
    return move(build_student(settings.changed(**changes)))


def move(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def saved(settings, tmp_path_factory):
    """A trained student and its folder."""
    model = trained(settings)
    return model, save_student(model, tmp_path_factory.mktemp("saved") / "model")


def same(model, other) -> bool:
    return np.allclose(model.encode(TEXTS), other.encode(TEXTS), atol=1e-6)


def trainable(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_adapters_are_on_every_4_bit_layer_and_alone_trainable_in_32_bits(student):
    model = student[0].model
    named = dict(model.named_modules())
    packed = [name for name, module in named.items() if isinstance(module, Linear4bit)]
    assert len(packed) == 2 * 7  # q k v o gate up down in each of two layers
    assert all(name.endswith("base_layer") for name in packed)
    plain = [name for name, module in named.items() if type(module) is torch.nn.Linear]
    assert all("lora_" in name for name in plain)
    assert model.peft_config["default"].r == 16
    assert trainable(student) and all("lora_" in name for name in trainable(student))
    loaded = Backbone(Encoder(student="tiny-mistral", max_length=64))
    kept = {n: p.dtype for n, p in loaded.model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == kept.get(name.replace(".base_layer", ""), torch.float)


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "weighted_mean", "ata"])
def test_padding_side_changes_no_vector(settings, pooling):
    model = build_student(settings.changed(pooling=pooling, quantization="none"))
    right = model.encode(TEXTS)
    model.tokenizer.padding_side = "left"
    assert (model.preprocess(TEXTS)["attention_mask"][:, 0] == 0).any()
    assert np.allclose(model.encode(TEXTS), right, atol=1e-5)


def test_more_than_the_model_has_is_an_error(settings, student):
    with pytest.raises(LabError, match=r"student_layers is 3 .* has 2 layers"):
        build_student(settings.changed(student_layers=3))
    with pytest.raises(LabError, match="over this model's 512: set max_length"):
        build_student(settings.changed(max_length=600))
    with pytest.raises(LabError, match="over this model's 512"):
        student.max_seq_length = 4096
    assert student.max_seq_length == settings.encoder.max_length


def test_eval_mode_before_training_keeps_the_gradient(settings):
    model = build_student(settings)
    model.encode(TEXTS)
    model.train()
    model(model.preprocess(TEXTS))["sentence_embedding"].sum().backward()
    norms = [p.grad.norm() for n, p in model.named_parameters() if "lora_B" in n]
    assert norms and all(norm > 0 for norm in norms)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_half_precision_by_hand_on_a_cpu(settings, quantization):
    changes = {"quantization": quantization, "compute_dtype": "bfloat16"}
    model = build_student(settings.changed(**changes))
    whole = model.encode(TEXTS)
    assert ((model.half().encode(TEXTS) * whole).sum(1) > 0.999).all()


@pytest.mark.parametrize("value", [("a", "b"), {"text": "a"}, None, 3, float("nan")])
def test_what_is_no_text_is_named(student, settings, value):
    with pytest.raises(LabError, match=rf"is no text \({type(value).__name__}\)"):
        student.encode(["a text", value])
    for texts in (["a text", value], "a text"):  # nor is one text several
        with pytest.raises(LabError, match="is no text"):
            embed(student, texts, settings, cache=None)


# -- sentence-transformers' own tools --------------------------------------------------


def trainer(model, folder, steps, **more):
    data = {"anchor": TEXTS * 2, "positive": ["Bees.", "Long.", "Tax law"] * 2}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=steps, report_to=[], learning_rate=1e-2,
        use_cpu=True, disable_tqdm=True, logging_strategy="no", save_steps=1,
        per_device_train_batch_size=3, eval_strategy="steps", eval_steps=1,
        batch_sampler="no_duplicates", **more,
    )  # fmt: skip
    data = Dataset.from_dict(data)
    loss = losses.MultipleNegativesRankingLoss(model)
    return SentenceTransformerTrainer(model, arguments, data, data, loss=loss)


def test_the_librarys_trainer_resumes_and_takes_the_best(settings, tmp_path):
    """From a loaded student on, in NF4; only its adapters move."""
    model = load_student(save_student(build_student(settings), tmp_path / "student"))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer(model, tmp_path / "run", 1).train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= trainable(model)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    again = build_student(settings)
    run = trainer(again, tmp_path / "run", 2, **best)
    run.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert run.state.global_step == 2
    kept = load_student(run.state.best_model_checkpoint)
    assert same(again, kept) and not same(kept, build_student(settings))


def test_adapters_have_names_of_their_own_and_all_are_kept(settings, tmp_path):
    model = trained(settings)
    first, more = model.encode(TEXTS), LoraConfig(r=4, target_modules="all-linear")
    with pytest.raises(ValueError, match="default already exists"):
        model.add_adapter(more)
    assert np.array_equal(model.encode(TEXTS), first)
    model.add_adapter(more, "second")
    move(model)
    again = load_student(save_student(model, tmp_path / "model"))
    assert again.active_adapters() == ["second"] and same(again, model)
    assert fingerprint(again) == fingerprint(model)
    again.set_adapter("default")
    assert np.allclose(again.encode(TEXTS), first, atol=1e-6)
    again = load_student(save_student(again, tmp_path / "first on"))
    assert again.active_adapters() == ["default"]


def test_the_adapter_is_one_of_peft(saved):
    model, folder = saved
    base = AutoModel.from_pretrained(models.tiny_folder("tiny-mistral"))
    peft = PeftModel.from_pretrained(base, folder / "0_Backbone" / "adapter")
    name = "layers.0.mlp.up_proj.lora_B.default.weight"
    theirs = peft.get_parameter(f"base_model.model.{name}")
    assert torch.equal(theirs, model[0].model.get_parameter(name))


def test_vectors_are_cut_and_another_process_gives_the_same(saved):
    model, _ = saved
    whole = model.encode(TEXTS)
    short = model.encode(TEXTS, truncate_dim=16, normalize_embeddings=True)
    wanted = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    assert np.allclose(short, wanted, atol=1e-5)
    pool = model.start_multi_process_pool(["cpu"])
    try:
        found = model.encode(TEXTS, pool=pool, chunk_size=2)
    finally:
        model.stop_multi_process_pool(pool)
    assert np.allclose(found, whole, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "mean"},
        {"pooling": "last", "bidirectional": False},
        {"pooling": "mean", "student_layers": 1},
        {"pooling": "first", "student": "tiny-bert", "quantization": "none"},
    ],
)
def test_an_export_opens_as_plain_modules_and_gives_the_same_vectors(
    change, settings, tmp_path
):
    """Also of one text, which is not padded: a decoder still attends both ways."""
    changes = {"text_format": "plain", "pooled_tokens": "all", **change}
    model = trained(settings, **changes)
    model.prompts["query"] = "Find it:"
    folder = export_student(model, tmp_path / "plain")
    opened = SentenceTransformer(str(folder), device="cpu")
    kinds = [type(module).__name__ for module in opened]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    texts = [text.strip() for text in TEXTS]
    for given in (texts, *texts):
        for name in ("encode", "encode_query", "encode_document"):
            wanted, found = (getattr(one, name)(given) for one in (model, opened))
            assert np.allclose(found, wanted, atol=1e-5)
    assert not same(model, build_student(settings.changed(**changes)))


@pytest.mark.parametrize(
    "change", [{"pooling": "ata"}, {"text_format": "inst"}, {"pooled_tokens": "text"}]
)
def test_what_plain_modules_cannot_do_is_not_exported(change, settings, tmp_path):
    changes = {"pooling": "mean", "text_format": "plain", **change}
    ((name, value),) = change.items()
    with pytest.raises(LabError, match=f"has no module for {name}={value}"):
        export_student(build_student(settings.changed(**changes)), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_a_folder_holds_is_not_replaced_by_a_student(saved, settings, tmp_path):
    model, _ = saved
    (tmp_path / "thesis.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "link"):
        if folder.name == "link":
            folder.symlink_to(tmp_path)
        for save in (save_student, export_student):
            with pytest.raises(LabError, match="holds other files"):
                save(model, folder)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    (tmp_path / "own").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "own")
    save_student(model, tmp_path / "other")
    assert (tmp_path / "own" / "modules.json").is_file()


def test_an_encoder_that_is_no_student_is_named(settings, tmp_path):
    plain = SentenceTransformer(modules=list(load_encoder(settings))[1:])
    with pytest.raises(LabError, match="this encoder is no student"):
        export_student(plain, tmp_path / "x")


def test_a_model_of_a_relative_folder_opens_from_elsewhere(
    settings, tmp_path, monkeypatch
):
    source = models.tiny_folder("tiny-mistral", tmp_path / "models")
    monkeypatch.chdir(source.parent)
    named = settings.changed(student=source.name, text_format="inst")
    folder = save_student(build_student(named), tmp_path / "student")
    wanted = load_student(folder, named).encode(TEXTS)
    monkeypatch.chdir(tmp_path)
    assert np.allclose(load_student(folder).encode(TEXTS), wanted, atol=1e-6)
    here = DATA.relative_to(ROOT) / "models" / "student-minilm-seed0"
    assert models.local_name(str(here)) == str(ROOT / here)
    (tmp_path / here).mkdir(parents=True)  # one's own goes before the project's
    assert models.local_name(str(here)) == str(here)


def test_a_student_keeps_its_encoders_prompts_or_is_refused(settings, tmp_path):
    model = load_encoder(settings)
    parts = [Transformer(str(models.tiny_folder("tiny-bert"))), Pooling(64)]
    model = SentenceTransformer(modules=parts, prompts={"query": "query: "})
    model.save(str(tmp_path / "e5"))
    named = {"student": str(tmp_path / "e5"), "quantization": "none"}
    with pytest.raises(LabError, match="its prompts would be lost; set text_format"):
        build_student(settings.changed(**named, text_format="plain"))
    build_student(settings.changed(**named, text_format="{instruction}{text}"))


# -- save and load ---------------------------------------------------------------------


def test_save_and_load_give_the_same_vectors_and_fingerprint(saved, settings, student):
    model, folder = saved
    assert not same(model, student)
    save_student(model, folder)  # again, over the first
    again = load_student(folder, settings)
    assert same(again, model) and trainable(again) == trainable(model)
    assert fingerprint(again) == fingerprint(model)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    texts = [p.read_text() for p in folder.rglob("*.json")]
    assert len(texts) >= 4 and not any(str(ROOT) in text for text in texts)


def test_each_setting_of_the_vectors_is_saved(settings, tmp_path):
    found = [build_student(settings).encode(TEXTS, prompt="Find it")]
    for number, change in enumerate(
        [
            {"bidirectional": False},
            {"pooled_tokens": "all"},
            {"ata_transform": "printed"},
            {"pooling": "mean", "student_layers": 1},
            {"text_format": "a {instruction}{text}"},
        ]
    ):
        model = build_student(settings.changed(**change))
        again = load_student(save_student(model, tmp_path / f"{number}"))
        vectors, kept = (m.encode(TEXTS, prompt="Find it") for m in (model, again))
        assert np.allclose(kept, vectors, atol=1e-6)
        assert all(np.abs(vectors - other).max() > 1e-4 for other in found)
        found.append(vectors)


def test_a_student_of_other_settings_is_refused(saved, settings):
    _, folder = saved
    others = {"student": "tiny-bert", "pooling": "mean", "max_length": 32}
    for name, value in {**others, "text_format": "e5"}.items():
        with pytest.raises(LabError, match=f"trained with {name}="):
            load_student(folder, settings.changed(**{name: value}))
    load_student(folder, settings.changed(compute_dtype="auto", encode_batch=2))


def test_its_folder_opens_as_any_other_when_code_is_trusted(saved, settings):
    """Since 6.0 the library imports modules of another package only if told so."""
    model, folder = saved
    opened = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    teacher = load_encoder(settings, str(folder))
    assert same(opened, model) and same(teacher, model)
    assert type(opened[0]) is type(teacher[0]) is Backbone
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(folder), device="cpu")
    wrong = {"dtype": "float16"}
    for name, given in (
        ("dtype", {"model_kwargs": wrong}),
        ("dtype", {"processor_kwargs": wrong}),
        ("backend", {"backend": "onnx"}),
    ):
        with pytest.raises(LabError, match=f"takes no {name}"):
            SentenceTransformer(str(folder), trust_remote_code=True, **given)


def test_a_folder_that_holds_its_weights_stands_alone(saved, tmp_path, monkeypatch):
    model, folder = saved
    monkeypatch.delitem(models.TINY, "tiny-mistral")  # not to be looked for
    for number in range(2):  # also saved again
        again = load_student(folder)
        assert same(again, model)
        folder = save_student(again, tmp_path / str(number))


def rewrite(folder, **changes):
    path = folder / "0_Backbone" / "backbone.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_other_weights_of_the_same_name_are_refused(saved, tmp_path):
    folder = save_student(saved[0], tmp_path / "other")
    rewrite(folder, weights_sha256="0")
    for load in (load_student, lambda own: load_encoder(resolve("smoke"), str(own))):
        with pytest.raises(LabError, match=r"^the student .* other weights"):
            load(folder)
    (folder / "0_Backbone" / "backbone.json").unlink()  # no default takes its place
    with pytest.raises(LabError, match="holds no saved student"):
        load_student(folder)


def test_a_backbone_that_was_saved_untapped_receives_no_attention(saved, tmp_path):
    folder = save_student(saved[0], tmp_path / "older")
    rewrite(folder, tap=False)
    backbone = load_student(folder)[0]
    assert "received_attention" not in backbone(backbone.preprocess(TEXTS))


def test_unpacked_weights_give_the_same_vectors_and_are_saved_as_before(
    saved, tmp_path
):
    model, _ = saved
    unpacked = unpack_student(model)
    assert not any(isinstance(module, Linear4bit) for module in unpacked.modules())
    assert np.allclose(unpacked.encode(TEXTS), model.encode(TEXTS), atol=1e-5)
    assert fingerprint(unpacked) != fingerprint(model)
    again = load_student(save_student(unpacked, tmp_path / "model"))
    assert fingerprint(again) == fingerprint(model)


SHIPPED = DATA / "models" / "student-minilm-seed0"
BEGINS = [0.0311, -0.0417, 0.0466, 0.0665, -0.0412, 0.0198]
"""Its vector of the first text, as it was before modules had their present names."""


def test_a_student_saved_by_an_earlier_version_still_opens_and_names_its_base():
    code = (
        "import sys; from sentence_transformers import SentenceTransformer as S;"
        "model = S(sys.argv[1], trust_remote_code=True, device='cpu');"
        "print(*model.encode(sys.argv[2])[:6])"
    )
    command = [sys.executable, "-c", code, SHIPPED, TEXTS[0]]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    plain = np.array(ran.stdout.split(), float)
    settings = resolve("workshop", {"student": MINILM, "device": "cpu"})
    model = load_student(SHIPPED, settings)
    assert np.allclose(plain, BEGINS, atol=1e-3)  # bfloat16 here, float32 elsewhere
    assert np.allclose(plain, model.encode(TEXTS[0])[:6], atol=1e-6)
    assert model.model_card_data.base_model == MINILM
