"""Request → answer → record, or a rejection with a named reason; and asking again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.records import Rejection
from nbutils.llm.client import Client
from nbutils.llm.store import Answer, ChatRequest
from nbutils.synthesis.parsing import REASONS, parse, without_thought
from nbutils.synthesis.replies import Planned, templates

Watch = Callable[[Any], None]
"""Is shown each outcome as it arrives: a record, a list of them, or a Rejection."""


def fulfil(
    requests: Sequence[Planned],
    settings: Settings,
    client: Client,
    watch: Watch | None = None,
) -> tuple[list, list[Rejection]]:
    """Ask, parse, and ask again: (accepted, rejected), in the order of the requests.

    A rejected answer is asked for again at most `llm_reasks` times, as a request of
    its own that holds the failed answer and its fault; so a run that was broken off
    goes on where it stood, and replay takes the same way as far as it is stored. The
    last outcome counts. LabError, before anything is asked, where no answer can be
    long enough to be let through (half the words asked for).
    """
    least = max((request.words for request in requests), default=0) / 2
    if client.live and least > settings.llm.max_tokens:
        raise LabError(
            f"an answer that is let through has {least:.0f} words or more, and "
            f"llm_max_tokens is {settings.llm.max_tokens}: raise it"
        )
    outcomes: list[Any] = [None] * len(requests)
    asked = [(place, request.chat(settings)) for place, request in enumerate(requests)]
    for again in range(settings.llm.reasks + 1):
        first_with = {chat.key: requests[place] for place, chat in reversed(asked)}

        def arrived(chat, answer, first_with=first_with):
            watch(parse(first_with[chat.key], answer.text, answer.finish))

        answers = client.complete_many([c for _, c in asked], watch and arrived)
        refused = []
        for (place, chat), answer in zip(asked, answers, strict=True):
            outcome = parse(requests[place], answer.text, answer.finish)
            outcomes[place] = outcome
            if isinstance(outcome, Rejection):
                # what does not count as answered is asked as it was
                told = client.find(chat) is not None
                then = reask(chat, answer, outcome, again + 1) if told else chat
                if client.live or client.find(then):
                    refused.append((place, then))
        asked = refused
        if not asked:
            break
    accepted = [o for o in outcomes if not isinstance(o, Rejection)]
    return accepted, [o for o in outcomes if isinstance(o, Rejection)]


def reask(
    chat: ChatRequest, answer: Answer, fault: Rejection, number: int
) -> ChatRequest:
    """The request that tells the model what was wrong with its answer."""
    told = templates()["reask"].format(
        reason=REASONS[fault.reason], detail=fault.detail
    )
    text = without_thought(answer.text)
    said = [{"role": "assistant", "content": text}] if text.strip() else []
    return replace(
        chat,
        id=f"{chat.id.split('#')[0]}#{number}",
        messages=(*chat.messages, *said, {"role": "user", "content": told}),
    )
