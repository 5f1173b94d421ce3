"""A scale model of Mistral: its tokenizer, its shape, its first weights, its folder.

`MistralForCausalLM` with grouped-query attention and rotary positions, a thousandth of
the size of the papers' decoder. Its text is byte-level BPE; `[INST]` and `[/INST]` are
tokens, and the chat template is that of Mistral-Instruct.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.nn import functional
from transformers import (
    AutoModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from nbutils.attention import TAPPED
from nbutils.errors import LabError
from nbutils.models import byte_level_bpe, load_pretrained, minilm_folder, quiet
from nbutils.records import atomic_folder
from nbutils.settings import Pretraining

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Turns as Mistral-7B-Instruct-v0.2 writes them."""

WRITES = ("o_proj.weight", "down_proj.weight")
"""Matrices by which a layer writes to the residual stream."""


def train_tokenizer(
    texts: Iterable[str], settings: Pretraining, folder: str | Path
) -> PreTrainedTokenizerFast:
    """The decoder's tokenizer, with its chat template, trained and kept in `folder`.

    LabError where the texts are too few for the vocabulary that the settings want.
    """
    tokenizer = byte_level_bpe(texts, settings.vocabulary, settings.places)
    if len(tokenizer) < settings.vocabulary:
        raise LabError(
            f"the text gives only {len(tokenizer)} of {settings.vocabulary} tokens: "
            "set vocabulary lower, or give more text"
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    with atomic_folder(folder) as made:
        tokenizer.save_pretrained(made)
    return tokenizer


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder. LabError where there is none."""
    if not Path(folder, "tokenizer.json").is_file():
        raise LabError(f"{folder} holds no tokenizer: run the pretraining first")
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def config_of(settings: Pretraining, tokenizer) -> MistralConfig:
    """The shape; LabError where heads do not divide the width or each other."""
    if settings.hidden % settings.heads or settings.heads % settings.key_heads:
        raise LabError(
            f"hidden={settings.hidden}, heads={settings.heads} and "
            f"key_heads={settings.key_heads} must divide one another: change one"
        )
    return MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_heads,
        head_dim=settings.hidden // settings.heads,
        max_position_embeddings=settings.places,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_decoder(settings: Pretraining, tokenizer) -> MistralForCausalLM:
    """A decoder whose weights follow from the settings alone, in float32.

    Matrices that write to the residual stream begin smaller by sqrt(2 layers), as in
    GPT-2; for token embeddings and silent axes see `first_embeddings`.
    """
    config = config_of(settings, tokenizer)
    config._attn_implementation = TAPPED
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = MistralForCausalLM(config)
    with torch.no_grad():
        given = first_embeddings(tokenizer, settings)
        model.model.embed_tokens.weight.copy_(given)
    become_encoder(model.model, settings, 1 / math.sqrt(2 * settings.layers))
    model.config.use_cache = False
    return model


@torch.no_grad()
def become_encoder(
    model: PreTrainedModel, settings: Pretraining, damping: float
) -> None:
    """Multiply what layers write by `damping`; the final norm silences silent axes.

    A language model's last layers hold the next token, not the text. With damping 0
    the encoder begins as a bag of its token embeddings, and the layers, whose attention
    and gates stay, learn anew what to add to it.
    """
    for name, weight in model.named_parameters():
        if name.endswith(WRITES):
            weight *= damping
    model.norm.weight[: settings.silent_axes] = 0


def principal_axes(vectors: torch.Tensor, width: int) -> torch.Tensor:
    """The `width` leading right singular vectors of `vectors` (n, dim): (dim, width).

    Not centred: cosines between projected vectors are then nearest to the ones before.
    """
    _, axes = torch.linalg.eigh(vectors.double().T @ vectors.double())
    leading = axes.flip(1)[:, :width]
    largest = leading.abs().argmax(0)  # a sign that no library's choice changes
    return (leading * leading[largest, torch.arange(width)].sign()).float()


def first_embeddings(tokenizer, settings: Pretraining) -> torch.Tensor:
    """First token embeddings (vocabulary, hidden), each of root mean square 1.

    The direction is random or the teacher's. A mean of vectors after an RMSNorm weighs
    all tokens equally; so a token's weight stands in its silent axes, which share the
    length with the others. Frequent tokens weigh less (Zipf's law by rank, which BPE's
    order of merges follows, as in Model2Vec), special ones least.
    """
    size, silent = len(tokenizer), settings.silent_axes
    heard = settings.hidden - silent
    if heard < 1:
        raise LabError(
            f"silent_axes={silent} leaves nothing of hidden={settings.hidden}: lower it"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    content = torch.randn(size, heard, generator=generator)
    if settings.embeddings == "teacher":
        found = teacher_embeddings(tokenizer, heard)
        content[:, : found.shape[1]] = found
    weight = torch.log1p(torch.arange(1, size + 1).float())
    weight[tokenizer.all_special_ids] = weight.min()
    weight *= 0.9 / weight.max()
    rest = torch.sqrt((1 - weight**2) / silent)
    given = torch.cat(
        [
            rest[:, None].expand(size, silent),
            functional.normalize(content, dim=-1) * weight[:, None],
        ],
        dim=1,
    )
    return given * math.sqrt(settings.hidden)


def teacher_embeddings(tokenizer, width: int) -> torch.Tensor:
    """MiniLM's vector of each token alone (vocabulary, at most width), centred.

    On the principal axes of all of them (Model2Vec); special tokens are empty texts.
    """
    from sentence_transformers import SentenceTransformer

    size, special = len(tokenizer), set(tokenizer.all_special_ids)
    texts = ["" if i in special else tokenizer.decode([i]).strip() for i in range(size)]
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    with torch.inference_mode():
        found = model.encode(
            texts, batch_size=256, convert_to_tensor=True, show_progress_bar=False
        ).float()
    axes = principal_axes(found, min(width, found.shape[1]))
    return (found - found.mean(0)) @ axes


def save_decoder(model: PreTrainedModel, tokenizer, folder: str | Path) -> Path:
    """Write model (bfloat16 safetensors) and tokenizer to `folder`, whole or not.

    The folder opens with transformers' Auto classes, and by name as a student.
    """
    state = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    before, model.config.dtype = model.config.dtype, torch.bfloat16
    # The direction of attention is the caller's choice, no property of the weights: a
    # stored one would make `bidirectional=False` attend both ways.
    causal = model.config.__dict__.pop("is_causal", None)
    with atomic_folder(folder) as made, quiet():
        model.save_pretrained(made, state_dict=state)
        tokenizer.save_pretrained(made)
    model.config.dtype = before
    if causal is not None:
        model.config.is_causal = causal
    return Path(folder)


def load_decoder(folder: str | Path, *, head: bool = True) -> tuple:
    """(model in float32, tokenizer) of a folder that `save_decoder` wrote.

    Without `head` the bare transformer, as an encoder needs it.
    """
    loader = MistralForCausalLM if head else AutoModel
    model = load_pretrained(
        loader, str(folder), attn_implementation=TAPPED, dtype=torch.float32
    )
    model.config.use_cache = False
    return model, load_tokenizer(folder)
