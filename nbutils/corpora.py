"""The text that the decoder is pretrained on: pages, their passages, packed tokens.

The text is no part of the project. A folder holds it: Simple English Wikipedia as
`simplewiki.jsonl.xz` (one {id, title, text} a line) and OpenStax textbooks as
`openstax.txt.xz` (sections between blank lines), or one of the two.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbutils import keys
from nbutils.errors import LabError
from nbutils.records import atomic, sha256, write_json

VALIDATION = 100
"""One page in so many is set aside, by its id: no stage trains on it."""

TOKENIZED_AT_ONCE = 4096
SHORTEST = 60
"""Characters below which a line is no passage (a heading, a formula's left-over)."""


@dataclass(frozen=True)
class Page:
    """A page of text; `title` is empty where the source has none."""

    id: str
    title: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the page is set aside for validation."""
        return keys.key(self.id) % VALIDATION == 0

    def passages(self) -> list[str]:
        """The page's paragraphs, in order, headings left out."""
        lines = (line.strip() for line in self.text.split("\n"))
        return [line for line in lines if len(line) >= SHORTEST]

    def whole(self) -> str:
        """Title and text as the language model reads them."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def _wiki(path: Path) -> Iterator[Page]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield Page(f"simplewiki/{row['id']}", row["title"], row["text"])


def _books(path: Path) -> Iterator[Page]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        sections = file.read().split("\n\n")
    for number, section in enumerate(sections):
        if section.strip():
            yield Page(f"openstax/{number}", "", section.strip())


@dataclass(frozen=True)
class Source:
    """A text that the recipe knows: its reader and what its licence asks to be said."""

    read: Callable[[Path], Iterator[Page]]
    title: str
    licence: str
    authors: str


SOURCES: dict[str, Source] = {
    "simplewiki.jsonl.xz": Source(
        _wiki,
        "Simple English Wikipedia, dump of about December 2021",
        "CC BY-SA 3.0",
        "Wikipedia contributors",
    ),
    "openstax.txt.xz": Source(
        _books, "OpenStax textbooks", "CC BY 3.0 and CC BY 4.0", "OpenStax"
    ),
}


def sources_in(folder: str | Path) -> list[Path]:
    """The known texts in a folder. LabError, saying what is expected, if none is."""
    folder = Path(folder)
    found = [folder / name for name in SOURCES if (folder / name).is_file()]
    if not found:
        raise LabError(
            f"{folder} holds no text to pretrain on: it must hold "
            f"{' or '.join(SOURCES)} (lines of id, title, text; plain sections)"
        )
    return found


def read_pages(folder: str | Path, seed: int = 0) -> list[Page]:
    """Every page of the folder's texts, in an order drawn by the seed.

    LabError for a missing folder and for a file that is damaged.
    """
    pages: list[Page] = []
    for path in sources_in(folder):
        try:
            pages.extend(SOURCES[path.name].read(path))
        except (lzma.LZMAError, EOFError, ValueError, KeyError) as error:
            raise LabError(
                f"{path} cannot be read ({type(error).__name__}: {error}): it is "
                "truncated or of another form; fetch it again"
            ) from None
    order = np.random.default_rng(seed).permutation(len(pages))
    return [pages[i] for i in order]


def _encoded(pages: Iterable[Page], tokenizer) -> Iterator[np.ndarray]:
    """The tokens of pages: `<s>`, title and text, `</s>`; one array for many pages."""
    batch: list[str] = []
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()

    def flush() -> np.ndarray:
        found = fast.encode_batch_fast(batch, add_special_tokens=False)
        start, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        rows = [np.array(start + text.ids + end, np.uint16) for text in found]
        return np.concatenate(rows)

    for page in pages:
        batch.append(page.whole())
        if len(batch) == TOKENIZED_AT_ONCE:
            yield flush()
            batch.clear()
    if batch:
        yield flush()


def _describe(text: Path, tokenizer, seed: int) -> dict[str, Any]:
    """What the packed tokens follow from."""
    return {
        "sources": {path.name: sha256(path) for path in sources_in(text)},
        "vocabulary": keys.key(tokenizer.backend_tokenizer.to_str()),
        "seed": seed,
    }


def pack(
    text: str | Path,
    pages: list[Page],
    tokenizer,
    folder: str | Path,
    seed: int,
) -> dict[str, Any]:
    """Write the tokens of all pages to `folder`, once; returns what was written.

    Files: `train.bin` and `validation.bin`, uint16, page after page, and `corpus.json`
    with the sources' hashes and the numbers of pages and tokens. Packed files of the
    same text, tokenizer and seed are kept. LabError where 16 bits do not suffice.
    """
    folder, made = Path(folder), _describe(Path(text), tokenizer, seed)
    if len(tokenizer) > 2**16:
        raise LabError(
            f"a vocabulary of {len(tokenizer)} does not fit 16 bits: make it smaller"
        )
    card = folder / "corpus.json"
    if card.is_file():
        known = json.loads(card.read_text(encoding="utf-8"))
        if {name: known.get(name) for name in made} == made:
            return known
        card.unlink()  # what it describes is about to change
    for name, held_out in (("validation", True), ("train", False)):
        chosen = [page for page in pages if page.held_out == held_out]
        made[f"{name}_pages"], made[f"{name}_tokens"] = len(chosen), 0
        with atomic(folder / f"{name}.bin") as path, path.open("wb") as file:
            for part in _encoded(chosen, tokenizer):
                file.write(part.tobytes())
                made[f"{name}_tokens"] += len(part)
    write_json(card, made)
    return made


def packed(folder: str | Path, name: str) -> np.ndarray:
    """The packed tokens of `train` or `validation`, uint16, mapped, not read."""
    path = Path(folder, f"{name}.bin")
    if not path.is_file() or not path.stat().st_size:
        raise LabError(
            f"{path} holds no tokens: the text has too few pages, or it was not packed"
        )
    return np.memmap(path, np.uint16, mode="r")
