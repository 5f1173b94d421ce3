"""Page 01b: what a run costs, and what is asked at all."""

from collections.abc import Iterable

from exercises import Exercise


def cost_of(
    prompt_tokens: int,
    answer_tokens: int,
    input_price: float,
    output_price: float,
    batch_factor: float = 1.0,
) -> float:
    """Cost of a run: prices are per million tokens, a batch file has its factor."""
    live = prompt_tokens * input_price + answer_tokens * output_price
    return batch_factor * live / 1e6


def to_ask(keys: Iterable[str], known: set[str]) -> list[str]:
    """The keys that go to the server, in order: unknown ones, each once."""
    return [key for key in dict.fromkeys(keys) if key not in known]


EXERCISES = [
    Exercise(
        cost_of,
        [
            (1_000_000, 0, 2.5, 10.0),
            (4000, 1000, 2.5, 10.0),
            (8000, 500, 2.0, 8.0, 0.5),
        ],
        {
            "prices are per million tokens": lambda n, m, p, q, factor=1.0: (
                factor * (n * p + m * q)
            ),
            "answers have a price of their own": lambda n, m, p, q, factor=1.0: (
                factor * (n + m) * p / 1e6
            ),
            "a batch file has a factor": lambda n, m, p, q, factor=1.0: (
                (n * p + m * q) / 1e6
            ),
            "the factor holds for prompts and answers": lambda n, m, p, q, factor=1.0: (
                (n * p + factor * m * q) / 1e6
            ),
        },
    ),
    Exercise(
        to_ask,
        [(["c", "a", "b", "a"], {"b"}), (["x"], {"x"}), (["b", "a", "b"], set())],
        {
            "the same request twice is paid for twice": lambda keys, known: [
                key for key in keys if key not in known
            ],
            "what is known is asked again": lambda keys, known: [*dict.fromkeys(keys)],
            "the order is lost: a set has none": lambda keys, known: sorted(
                set(keys) - known
            ),
        },
    ),
]
