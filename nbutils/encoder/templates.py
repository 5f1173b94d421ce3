"""Text formats: instruction and text written together, and which tokens are pooled.

A text is tokenized together with its format, as the model's authors do it; where the
text stands among the tokens is read from their offsets.
"""

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
FEATURES = ("input_ids", "attention_mask", "pooling_mask")


def template_of(text_format: str, instruction: str = "") -> str:
    """A format of FORMATS by name, or a template of one's own.

    It holds `{text}` once and, to take an instruction, `{instruction}`; else LabError.
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


def check_texts(texts: Sequence[str]) -> None:
    """LabError that names the first of `texts` that is none, and for one text alone."""
    for value in [texts] if isinstance(texts, str | bytes) else texts:
        if not isinstance(value, str) or value is texts:
            kind = type(value).__name__
            raise LabError(f"{value!r:.60} is no text ({kind}): give strings alone")


def padded_width(length: int) -> int:
    """The next multiple of eight, to which texts are padded: fewer shapes, kernels."""
    return -(-length // 8) * 8


def tokenize(
    texts: Sequence[str],
    tokenizer,
    text_format: str,
    instruction: str,
    rule: str,
    longest: int,
) -> dict[str, Tensor]:
    """FEATURES, each (texts, tokens).

    A text too long for `longest` tokens loses its own end, never its format's. Padding
    follows the tokenizer's side. LabError where the format alone fills the length.

    `rule` says what is pooled: `llm2vec` leaves out all that stands before the text
    where a template or an instruction does, and keeps the template's end (LLM2Vec's
    rule); `all` pools every real token; `text` the text alone, without special tokens.
    """
    parts = template_of(text_format, instruction).split("{text}")
    head, tail = (part.replace("{instruction}", instruction) for part in parts)
    whole = tokenizer([f"{head}{text}{tail}" for text in texts], verbose=False)
    start = rule == "all" or (rule == "llm2vec" and not head)
    rows = []
    for text, written in zip(texts, whole.encodings, strict=True):
        ids = written.ids
        before, after = _place(written, len(head), len(head) + len(text))
        around = before + len(ids) - after
        if around >= longest:
            raise LabError(
                f"the instruction alone fills {around} of {longest} tokens: shorten it "
                "or raise max_length"
            )
        body = ids[before:after][: longest - around]
        kept = [start] * before + [1] * len(body) + [rule != "text"] * len(ids[after:])
        own = [*ids[:before], *body, *ids[after:]]
        rows.append(torch.tensor([own, [1] * len(own), kept]))
    return padded(rows, tokenizer)


def padded(rows: Sequence[Tensor], tokenizer) -> dict[str, Tensor]:
    """Rows of FEATURES, (3, tokens) each, as one batch: (texts, tokens) by name."""
    width = padded_width(max((row.shape[1] for row in rows), default=0))
    padding = torch.tensor([tokenizer.pad_token_id, 0, 0])[:, None, None]
    batch = padding.repeat(1, len(rows), width)
    for number, row in enumerate(rows):
        begin = width - row.shape[1] if tokenizer.padding_side == "left" else 0
        batch[:, number, begin : begin + row.shape[1]] = row
    return dict(zip(FEATURES, batch, strict=True))


def _place(written, begin: int, end: int) -> tuple[int, int]:
    """(first, one past the last) of the tokens that hold characters `begin` to `end`.

    A token that holds a character of the text and one of the template is the text's.
    """
    real = [n for n, text in enumerate(written.sequence_ids) if text is not None]
    offsets = written.offsets  # a list made anew at every asking
    spans = [offsets[n] for n in real]
    first = real[0] if real else len(written.ids)  # special tokens stand before it
    first += sum(stop <= begin for _, stop in spans)
    return first, first + sum(start < end and stop > begin for start, stop in spans)
