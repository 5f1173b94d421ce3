"""Other people's architectures: their own attention, or one line that says why not."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from nbutils.core.errors import LabError
from nbutils.encoder import anchor_statistics as anchors
from nbutils.encoder import models
from nbutils.encoder.student import build_student

TEXTS = ["Bees dance in the dark.", "A much longer text, padded or cut. " * 3, "Tax"]
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128,
    "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}
HEADS = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
GROUPS = ("q", "k", "v", "post_attention", "intermediate", "output")
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
KINDS = {
    "mpnet": SHAPE,
    "bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2, "hidden_dropout": 0.1},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "codegen": {**GPT, "rotary_dim": 4, "n_ctx": 128, "attn_pdrop": 0.1},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "roformer": SHAPE,
    "megatron-bert": SHAPE,
    "rembert": {**SHAPE, "input_embedding_size": 16, "output_embedding_size": 32},
    "convbert": {**SHAPE, "embedding_size": 32, "conv_kernel_size": 3},
    "squeezebert": {
        **SHAPE, "embedding_size": 32, **{f"{name}_groups": 2 for name in GROUPS},
    },
    "big_bird": {**SHAPE, "attention_type": "original_full"},
    "longformer": {**SHAPE, "attention_window": [8, 8]},
    "gpt_oss": {**SHAPE, **HEADS, "num_local_experts": 2, "num_experts_per_tok": 1},
    "falcon": SHAPE,
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt2": GPT,
    "gemma3_text": {**SHAPE, **HEADS, "use_bidirectional_attention": True},
    "t5": T5,
    "mamba": SHAPE,
}  # fmt: skip
"""The first thirteen's own code adds a boolean mask as numbers, or has sinks."""


@pytest.fixture
def made(settings, tmp_path):
    """Makes a student of a tiny random model with large weights, in 32 bits."""

    def make(kind, **changes):
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(models.tiny_folder("tiny-mistral"))
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **KINDS[kind])
        model = AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
        tokenizer.save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        usual = {"quantization": "none", "pooling": "mean", "pooled_tokens": "all"}
        usual |= {"student": str(tmp_path), "text_format": "plain", "max_length": 96}
        return build_student(settings.changed(**{**usual, **changes}))

    return make


@pytest.mark.parametrize("kind", list(KINDS)[:-2])
def test_vectors_are_those_of_the_plain_model(kind, made, tmp_path):
    """In training mode too: no dropout is left in a frozen model."""
    own = kind == "gemma3_text"  # it attends both ways by itself, in its own window
    student = made(kind, bidirectional=own)
    features = student.preprocess(TEXTS)
    given = {name: features[name] for name in ("input_ids", "attention_mask")}
    plain = AutoModel.from_pretrained(tmp_path).eval()
    mask = given["attention_mask"][..., None]
    with torch.no_grad():
        wanted = (plain(**given).last_hidden_state * mask).sum(1) / mask.sum(1)
        wanted = torch.nn.functional.normalize(wanted, dim=-1)
        found = student.train()({**features})["sentence_embedding"]
    assert torch.allclose(found, wanted, atol=1e-5)
    assert student[0].tapped == (kind in ("gpt2", "gemma3_text"))
    if not student[0].tapped:
        with pytest.raises(LabError, match="attention cannot be read"):
            anchors.inspect(student, TEXTS)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mpnet", {"pooling": "ata"}, "ATA cannot read its attention; set pooling="),
        ("gpt_oss", {"pooling": "ata"}, "ATA cannot read its attention"),
        ("t5", {}, "it has an encoder and a decoder"),
        ("gpt_neo", {}, "it attends backwards only; set bidirectional=false"),
        ("mpt", {}, "it attends backwards only"),
        ("mamba", {"bidirectional": False}, "incompatible with Mamba"),
    ],
)
def test_what_a_student_cannot_be_is_one_line(kind, changes, message, made):
    with pytest.raises(LabError, match=f"cannot be this student: .*{message}") as told:
        made(kind, **changes)
    assert "\n" not in str(told.value)


def test_fewer_layers_where_each_has_a_kind(made):
    student = made("gemma3_text", student_layers=1, pooling="ata")
    assert len(student[0].model.layers) == 1 and student.encode(TEXTS).shape == (3, 32)
