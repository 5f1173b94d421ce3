"""Graded negatives for the samples of a retrieval set (Negative Matters, stage 2).

A sample of the set keeps its query and its positive and gets the four negatives (our
reading): in one call for the whole ladder, or in one call for each level.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from pydantic import Field

from nbutils.core.records import GradedExample, Rejection
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import Settings
from nbutils.llm.client import Client
from nbutils.synthesis import replies
from nbutils.synthesis.generate import Made, Watch, fulfil
from nbutils.synthesis.prompts import Planned
from nbutils.synthesis.recording import count_tokens, estimated

STAGE = "mgh-seeded"
TASK = "Given a query, retrieve the text that matches it"
LEVEL_TEXTS = {
    "N1": "nearly the matching text in topic, wording and form, but one decisive fact, "
    "entity, quantity, condition or relation differs",
    "N2": "the same narrow topic, serving a neighbouring need and not this one",
    "N3": "the same wider subject with some shared vocabulary, about another aspect or "
    "another thing",
    "N4": "the same general domain only",
}
"""The levels in words, as the one-call prompt has them."""


class LadderReply(replies.Reply):  # the pair is the user's own: it is not judged
    makes = GradedExample
    negatives: replies.Ladder = Field(alias="hard_negative_examples")

    def check(self, asked: Mapping[str, Any]) -> None:
        replies.check_texts(self.negatives, given=[asked["query"], asked["positive"]])


class LevelReply(replies.Reply):
    text: str

    def record(self, request: Planned) -> tuple[str, str]:
        given = [request.known["query"], request.known["positive"]]
        replies.check_texts([self.text], given=given)
        return request.id, self.text


LADDER = replies.Prompt("mgh_seeded", LadderReply)
LEVEL = replies.Prompt("mgh_level", LevelReply)


def seeded_requests(
    data: RetrievalSet, settings: Settings, limit: int = 0
) -> list[Planned]:
    """What is asked for the first `limit` queries (0: all) and their first positives.

    One request a query, or one a level (setting `mgh_calls`); languages take turns.
    """
    texts = dict(zip(data.corpus["id"], data.corpus["text"], strict=True))
    languages = settings.synthesis.languages
    set_of = {"family": data.name, "group": "retrieval", "split": "train"}
    set_of |= {"task_id": f"{data.name}/retrieval", "task": TASK}
    requests = []
    for number, query in enumerate(list(data.queries)[: limit or None]):
        text, positive = data.queries[query], texts[data.positives[query][0]]
        given = {"query": text, "positive": positive}
        variables = {**given, "language": languages[number % len(languages)]}
        name, known = f"{data.name}/{STAGE}/{query}", set_of | given
        if settings.synthesis.mgh_calls == "ladder":
            requests.append(Planned(name, LADDER, variables, known=known))
        else:
            requests += [
                Planned(f"{name}/{n}", LEVEL, variables | {"level": words}, known=known)
                for n, words in LEVEL_TEXTS.items()
            ]
    return requests


def graded(requests: Sequence[Planned], client: Client, watch: Watch = None) -> Made:
    """Ask `seeded_requests`: the graded examples, and what was rejected for good.

    Asked level by level, a query with a level that stays rejected is left out whole.
    """
    answered, rejections = fulfil(requests, client, watch)
    if all(request.prompt is LADDER for request in requests):
        return answered, rejections
    written, examples = dict(answered), []
    for first in requests[:: len(LEVEL_TEXTS)]:
        name = first.id.removesuffix("/N1")
        texts = [written.get(f"{name}/{level}") for level in LEVEL_TEXTS]
        if None in texts:
            continue
        named = zip(replies.LEVEL_NAMES, texts, strict=True)
        ladder = [{"similarity_level": level, "text": text} for level, text in named]
        whole = replace(first, id=name, prompt=LADDER)
        made = replies.parse(whole, json.dumps({"hard_negative_examples": ladder}))
        # two levels may be the same text
        (rejections if isinstance(made, Rejection) else examples).append(made)
    return examples, rejections


def estimate(requests: Sequence[Planned], settings: Settings) -> pd.DataFrame:
    """What grading would ask and cost: each negative as long as the positive."""
    positives = count_tokens(request.known["positive"] for request in requests)
    lengths = [
        (4 if request.prompt is LADDER else 1) * (count + 12)  # 12: keys and quotes
        for request, count in zip(requests, positives, strict=True)
    ]
    return estimated({STAGE: (requests, lengths)}, settings)
