"""The student: 4 bits, LoRA, both directions, save and load, old folders, merging."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    MultipleNegativesRankingLoss,
)
from transformers import DebertaV2Config, DebertaV2Model

from nbutils.core.errors import LabError
from nbutils.core.sections import MINILM, Encoder
from nbutils.core.settings import DATA, ROOT, resolve
from nbutils.encoder import models
from nbutils.encoder.backbone import Backbone
from nbutils.encoder.student import (
    build_student,
    load_encoder,
    load_student,
    save_student,
    unpack_student,
)
from nbutils.encoder.vectors import embed, fingerprint

TEXTS = ["Bees dance in the dark.", "A much longer text, padded or cut. " * 3, "Tax"]


@pytest.fixture(scope="module")
def saved(settings, tmp_path_factory):
    """A student whose adapters are as if trained, and its folder."""
    model = build_student(settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    folder = save_student(model, tmp_path_factory.mktemp("saved") / "model")
    return model.eval(), folder


def vectors(model, settings, texts=TEXTS, prompt=None):
    return embed(model, texts, settings, prompt, cache=None)


def test_adapters_are_on_every_4_bit_layer_alone_trainable_and_nothing_is_upcast(
    student,
):
    base = student[0].model.get_base_model()
    assert type(base).__name__ == "MistralModel"
    kinds = {name: type(module) for name, module in base.named_modules()}
    linear = [n for n, kind in kinds.items() if kind.__name__ == "Linear4bit"]
    linear = [name for name in linear if name.endswith("base_layer")]
    assert len(linear) == 2 * 7  # q k v o gate up down in each of two layers
    plain = [name for name, kind in kinds.items() if kind is torch.nn.Linear]
    assert all("lora_" in name for name in plain)
    assert student[0].model.peft_config["default"].r == 16
    trainable = [n for n, p in student.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    loaded = Backbone(Encoder(student="tiny-mistral", max_length=64))
    kept = {n: p.dtype for n, p in loaded.model.named_parameters()}
    for name, parameter in base.named_parameters():
        assert parameter.dtype == kept.get(name.replace(".base_layer", ""), torch.float)


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
    with pytest.raises(LabError, match="cannot read this backbone's attention"):
        model.encode(TEXTS)
    mean = settings.changed(**{**own, "pooling": "mean"})
    assert np.isfinite(build_student(mean).encode(TEXTS)).all()


def test_eval_mode_before_training_keeps_the_gradient(settings):
    model = build_student(settings)
    model.eval()
    vectors(model, settings)
    model.train()
    features = model.preprocess(TEXTS)
    model(features)["sentence_embedding"].sum().backward()
    norms = [p.grad.norm() for n, p in model.named_parameters() if "lora_B" in n]
    assert all(norm > 0 for norm in norms)


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


def test_another_process_gives_the_same_vectors(saved):
    model, _ = saved
    pool = model.start_multi_process_pool(["cpu"])
    try:
        found = model.encode(TEXTS, pool=pool, chunk_size=2)
    finally:
        model.stop_multi_process_pool(pool)
    assert np.allclose(found, model.encode(TEXTS), atol=1e-6)


def test_save_and_load_give_the_same_vectors_and_fingerprint(saved, settings, student):
    model, folder = saved
    trained = vectors(model, settings)
    assert np.abs(trained - vectors(student, settings)).max() > 1e-3
    save_student(model, folder)  # again, over the first
    again = load_student(folder, settings)
    assert np.allclose(vectors(again, settings), trained, atol=1e-6)
    assert fingerprint(again) == fingerprint(model)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    texts = [p.read_text() for p in folder.rglob("*.json")]
    assert len(texts) >= 4
    assert not any(str(ROOT) in text or "site-packages" in text for text in texts)


def test_what_is_pooled_and_how_changes_vectors_and_is_saved(settings, tmp_path):
    found = []
    for change in ("ata_transform=sum", "ata_transform=printed", "pooled_tokens=all"):
        changed = settings.changed(**dict([change.split("=")]))
        model = build_student(changed)
        found.append(vectors(model, settings, prompt="Find it"))
        again = load_student(save_student(model, tmp_path / "model"), changed)
        assert np.allclose(vectors(again, settings, prompt="Find it"), found[-1])
    assert min(np.abs(a - b).max() for a, b in combinations(found, 2)) > 1e-4


def test_a_student_of_other_settings_is_refused(saved, settings):
    _, folder = saved
    for name, value in (("pooling", "mean"), ("max_length", 32), ("text_format", "e5")):
        with pytest.raises(LabError, match=f"trained with {name}="):
            load_student(folder, settings.changed(**{name: value}))
    load_student(folder, settings.changed(compute_dtype="auto", encode_batch=2))


def test_its_folder_opens_as_any_other_when_code_is_trusted(saved, settings):
    """Since 6.0 the library imports modules of another package only if told so."""
    model, folder = saved
    opened = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    teacher = load_encoder(settings, str(folder))
    for found in (opened, teacher):
        assert np.allclose(found.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
        assert type(found[0]) is Backbone
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(folder), device="cpu")


SHIPPED = DATA / "models" / "student-minilm-seed0"
BEGINS = [0.0311, -0.0417, 0.0466, 0.0665, -0.0412, 0.0198]
"""Its vector of the first text, as it was before modules had their present names."""


def test_a_student_saved_by_an_earlier_version_still_opens():
    code = (
        "import sys; from sentence_transformers import SentenceTransformer as S;"
        "model = S(sys.argv[1], trust_remote_code=True, device='cpu');"
        "print(*model.encode(sys.argv[2])[:6])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, SHIPPED, TEXTS[0]],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    plain = np.array(ran.stdout.split(), float)
    model = load_student(
        SHIPPED, resolve("workshop", {"student": MINILM, "device": "cpu"})
    )
    assert model[0].section.ata_transform == "log"
    loaded = model.encode(TEXTS[0])[:6]
    assert np.allclose(plain, BEGINS, atol=1e-3)  # bfloat16 here, float32 elsewhere
    assert np.allclose(plain, loaded, atol=1e-6)


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


def test_a_folder_that_holds_its_weights_stands_alone(saved, tmp_path, monkeypatch):
    model, folder = saved
    monkeypatch.delitem(models.TINY, "tiny-mistral")  # not to be looked for
    for number in range(2):  # also saved again
        again = load_student(folder)
        assert np.allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
        folder = save_student(again, tmp_path / str(number))
