"""Text formats: instruction and text written together, and which tokens are pooled.

A format is tokenized in pieces (what stands before the text, the text, what stands
after it), so that a long text is cut without losing the template's end, and the pooling
mask is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nbutils.core.errors import LabError, known

FORMATS = {
    "plain": ("{instruction}{text}", "{text}"),
    "e5": ("Instruct: {instruction}\nQuery: {text}", "{text}"),
    "inst": ("[INST] {instruction}; {text} [/INST]", "[INST] {text} [/INST]"),
    "chat": (
        "<|im_start|>user\n{instruction}\n{text}<|im_end|>",
        "<|im_start|>user\n{text}<|im_end|>",
    ),
}
"""Each format with and without an instruction (e5: E5-mistral; inst: LLM2Vec).

`plain` writes the instruction in front of the text, as sentence-transformers does.
`chat` is the user's turn alone: SmolLM2's own template puts a system text before it.
"""

MULTIPLE = 8
"""Batches are padded to lengths of this multiple: fewer shapes, fewer kernels made."""


def template_of(text_format: str, instruction: str = "") -> str:
    """A format of FORMATS by name, or a template of one's own.

    One's own holds `{text}` once and, to take an instruction, `{instruction}`.
    LabError for any other.
    """
    if text_format in FORMATS:
        return FORMATS[text_format][0 if instruction else 1]
    if "{" not in text_format:
        known("text format", text_format, [*FORMATS, "a template with {text}"])
    if text_format.count("{text}") != 1:
        raise LabError(
            f"the template {text_format!r} must hold {{text}} exactly once: correct "
            "text_format"
        )
    if instruction and "{instruction}" not in text_format:
        raise LabError(
            f"the template {text_format!r} has no place for an instruction: add "
            "{instruction}, or give no prompt"
        )
    return text_format


class Pieces:
    """A format's tokens around a text, for one tokenizer and instruction.

    `before` and `after` are ids with the tokenizer's special tokens. LabError where the
    pieces, put together, do not read as the whole does.
    """

    def __init__(self, tokenizer, text_format: str, instruction: str = ""):
        parts = template_of(text_format, instruction).split("{text}")
        head, tail = (part.replace("{instruction}", instruction) for part in parts)
        first, last = _special(tokenizer)
        self.template = bool(head)
        self.before = [*first, *_ids(tokenizer, head)]
        self.after = [*_ids(tokenizer, tail), *last]
        joined = self.before + _ids(tokenizer, "text") + self.after
        whole = tokenizer(f"{head}text{tail}")["input_ids"]
        read, wanted = (tokenizer.decode(ids) for ids in (joined, whole))
        if "".join(read.split()) != "".join(wanted.split()):
            raise LabError(
                f"the pieces of text format {text_format!r} do not add up with this "
                f"model's tokenizer: {read!r} is not {wanted!r}; choose another one"
            )


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _special(tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text."""
    bare, whole = _ids(tokenizer, "text"), tokenizer("text")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise LabError(
        "this model's tokenizer changes a text where it adds special tokens: its "
        "pieces cannot be tokenized alone; choose another model"
    )


def tokenize(
    texts: Sequence[str], tokenizer, pieces: Pieces, rule: str, longest: int
) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `pooling_mask`, each (texts, tokens).

    A text is cut to `longest` tokens with its format. Padding follows the tokenizer's
    side. LabError where the format alone fills the length.

    `rule` says what is pooled: `llm2vec` leaves out all that stands before the text
    where a template or an instruction does, and keeps the template's end (LLM2Vec's
    rule); `all` pools every real token; `text` the text alone, without special tokens.
    """
    before, after = pieces.before, pieces.after
    around = len(before) + len(after)
    if around >= longest:
        raise LabError(
            f"the instruction alone fills {around} of {longest} tokens: shorten it or "
            "raise max_length"
        )
    room = {"truncation": True, "max_length": longest - around}
    bodies = tokenizer(list(texts), add_special_tokens=False, **room)["input_ids"]
    width = -(-(max(map(len, bodies), default=0) + around) // MULTIPLE) * MULTIPLE
    ids = torch.full((len(bodies), width), tokenizer.pad_token_id)
    mask, pooled = torch.zeros_like(ids), torch.zeros_like(ids)
    start = rule == "all" or (rule == "llm2vec" and not pieces.template)
    for row, body in enumerate(bodies):
        kept = [start] * len(before) + [1] * len(body) + [rule != "text"] * len(after)
        begin = width - len(kept) if tokenizer.padding_side == "left" else 0
        place = (row, slice(begin, begin + len(kept)))
        ids[place] = torch.tensor([*before, *body, *after])
        mask[place] = 1
        pooled[place] = torch.tensor(kept, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": mask, "pooling_mask": pooled}
