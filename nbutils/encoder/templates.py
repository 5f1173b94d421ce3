"""Text formats: instruction and text written together, and which tokens are pooled.

A format is tokenized in pieces (what stands before the text, the text, what stands
after it), so that a long text is cut without losing the template's end, and the pooling
mask is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nbutils.core.errors import LabError, nearest

FORMATS = {
    "plain": ("{instruction}{text}", "{text}"),
    "e5": ("Instruct: {instruction}\nQuery: {text}", "{text}"),
    "inst": ("[INST] {instruction}; {text} [/INST]", "[INST] {text} [/INST]"),
}
"""Each format with and without an instruction (e5: E5-mistral; inst: LLM2Vec).

`plain` writes the instruction in front of the text, as sentence-transformers does.
"""

POOLED = ("llm2vec", "all", "text")
"""Which tokens are pooled: `llm2vec` leaves out all that stands before the text where a
template or an instruction does, and keeps the template's end (LLM2Vec's rule); `all`
pools every real token; `text` pools the text alone, without special tokens.
"""

MULTIPLE = 8
"""Batches are padded to lengths of this multiple: fewer shapes, fewer kernels made."""


def around_text(text_format: str, instruction: str = "") -> tuple[str, str]:
    """What a format writes before and after a text.

    `text_format` is a name in FORMATS or a template of one's own, with `{text}` once
    and, to take an instruction, `{instruction}`. LabError for any other.
    """
    if text_format in FORMATS:
        template = FORMATS[text_format][0 if instruction else 1]
    elif text_format.count("{text}") == 1:
        template = text_format
        if instruction and "{instruction}" not in template:
            raise LabError(
                f"the template {template!r} has no place for an instruction: add "
                "{instruction}, or give no prompt"
            )
    elif "{" in text_format:
        raise LabError(
            f"the template {text_format!r} must hold {{text}} exactly once: "
            "correct text_format"
        )
    else:
        raise LabError(
            f"unknown text format {text_format!r}{nearest(text_format, FORMATS)} "
            f"(known: {', '.join(FORMATS)}, or a template with {{text}})"
        )
    before, after = template.split("{text}")
    return tuple(part.replace("{instruction}", instruction) for part in (before, after))


class Pieces:
    """A format's tokens around a text, for one tokenizer and instruction.

    `before` and `after` are ids with the tokenizer's special tokens; `start` is the
    number of special tokens that begin a text, `end` of those that end it. LabError
    where the pieces, put together, do not read as the whole does.
    """

    def __init__(self, tokenizer, text_format: str, instruction: str = ""):
        head, tail = around_text(text_format, instruction)
        first, last = _special(tokenizer)
        self.template = bool(head)
        self.start, self.end = len(first), len(last)
        self.before = [*first, *_ids(tokenizer, head)]
        self.after = [*_ids(tokenizer, tail), *last]
        probe = "text"
        whole = tokenizer(f"{head}{probe}{tail}")["input_ids"]
        joined = self.before + _ids(tokenizer, probe) + self.after
        if _squashed(tokenizer, whole) != _squashed(tokenizer, joined):
            raise LabError(
                f"the pieces of text format {text_format!r} do not add up with this "
                f"model's tokenizer: {tokenizer.decode(joined)!r} is not "
                f"{tokenizer.decode(whole)!r}; choose another text_format"
            )

    def pooled(self, body: int, rule: str) -> list[int]:
        """The pooling mask of a text of `body` tokens under a rule of POOLED."""
        before, after = len(self.before), len(self.after)
        if rule == "all" or (rule == "llm2vec" and not self.template):
            return [1] * (before + body + after)
        return [0] * before + [1] * body + [int(rule == "llm2vec")] * after


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


def _squashed(tokenizer, ids: list[int]) -> str:
    return "".join(tokenizer.decode(ids).split())


def tokenize(
    texts: Sequence[str], tokenizer, pieces: Pieces, rule: str, longest: int
) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `pooling_mask`, each (texts, tokens).

    A text is cut to `longest` tokens with its format. Padding follows the tokenizer's
    side. LabError where the format alone fills the length.
    """
    around = len(pieces.before) + len(pieces.after)
    if around >= longest:
        raise LabError(
            f"the instruction alone fills {around} of {longest} tokens: shorten it or "
            "raise max_length"
        )
    bodies = tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=True,
        max_length=longest - around,
    )["input_ids"]
    width = -(-(max(map(len, bodies), default=0) + around) // MULTIPLE) * MULTIPLE
    ids = torch.full((len(bodies), width), tokenizer.pad_token_id)
    mask, pooled = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, body in enumerate(bodies):
        count = len(body) + around
        begin = width - count if tokenizer.padding_side == "left" else 0
        place = (row, slice(begin, begin + count))
        ids[place] = torch.tensor([*pieces.before, *body, *pieces.after])
        mask[place] = 1
        pooled[place] = torch.tensor(pieces.pooled(len(body), rule))
    return {"input_ids": ids, "attention_mask": mask, "pooling_mask": pooled}
