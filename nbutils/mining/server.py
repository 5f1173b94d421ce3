"""An embeddings server that speaks OpenAI's API, and what its answers may look like."""

import base64
import json
from collections.abc import Iterator, Sequence

import numpy as np

from nbutils.core.access import open_sdk
from nbutils.core.errors import LabError

TOO_MANY = (400, 413, 422)
"""Status codes by which servers refuse a batch that is too large (or a text)."""


def ask(model: str, texts: Sequence[str], size: int = 64) -> Iterator[list[np.ndarray]]:
    """Vectors of texts in batches of `size`, in order, as they come.

    A server that refuses a batch is asked for half as many from then on. LabError where
    it refuses a single text, cannot be reached, or answers with anything but one vector
    of finite numbers a text.
    """
    import openai

    create = open_sdk().embeddings.with_raw_response.create
    start = 0
    while part := list(texts[start : start + size]):
        try:
            answer = create(model=model, input=part, encoding_format="float").content
        except openai.OpenAIError as error:
            answer = getattr(error, "response", None)
            if answer is not None and answer.status_code in TOO_MANY and len(part) > 1:
                size = len(part) // 2
                continue
            said = str(error)
            if answer is not None:  # in its own words, whatever their form
                said = f"{answer.status_code} {answer.text}"
            reason = " ".join(said.split())[:200]
            raise LabError(
                f"the embeddings server gave no vectors for {part[0][:60]!r} "
                f"({reason}): check this text, OPENAI_BASE_URL, OPENAI_API_KEY and the "
                "model's name"
            ) from None
        yield read(answer, part)
        start += len(part)


def read(answer: bytes, texts: Sequence[str]) -> list[np.ndarray]:
    """The vectors, float32, of an answer's JSON, in the order of the texts.

    Rows without an index stand in their order; LabError where it is not told otherwise
    which text a row is of, and for a vector that is none. Base64 is read as the API
    writes it: float32, little-endian.
    """
    try:
        rows = json.loads(answer)["data"]
        places = [row.get("index") for row in rows]
        if places.count(None) == len(rows):
            places = range(len(rows))
        found = dict(zip(places, (row["embedding"] for row in rows), strict=True))
        found = [found.pop(place) for place in range(len(texts))]
        if len(rows) != len(texts):
            raise LookupError
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        said = " ".join(answer.decode(errors="replace").split())[:120]
        raise LabError(
            f"the embeddings server's answer does not hold one vector for each of "
            f"{len(texts)} texts, it says {said!r}: nothing of it is kept; check "
            "OPENAI_BASE_URL and the model's name"
        ) from None
    return [_vector(*pair) for pair in zip(found, texts, strict=True)]


def _vector(given: object, text: str) -> np.ndarray:
    try:
        if isinstance(given, str):
            given = np.frombuffer(base64.b64decode(given, validate=True), "<f4")
        with np.errstate(all="ignore"):  # too large for float32: not finite
            vector = np.asarray(given, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        vector = np.empty(0)
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise LabError(
            f"the embeddings server's vector of {text[:60]!r} is no list of finite "
            "numbers: it is not kept; look at this text and at the server's log"
        )
    return vector
