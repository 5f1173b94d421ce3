"""Every setting of the lab, one section a room, with unit, default and source.

A setting has one place (`settings.mining.perc`) and one flat name (`perc`), by which
it is set and written down. `source` says which paper a default is from; "ours" marks a
choice of this lab where the papers are silent or the machine is smaller.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
FAMILIES = ["health", "money", "computing", "nature", "culture", "home", "industry"]


def _setting(
    default: Any, text: str, *, unit: str = "", source: str = "ours", **limits
):
    extra = {"unit": unit, "source": source}
    return Field(default=default, description=text, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """The settings of one room. No unknown name, no silent conversion, no change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False
    )
    prefix: ClassVar[str] = ""
    """What stands before the names of the section where they are written flat."""


class LLM(Section):
    """Asking a language model (notebooks 01 and 02)."""

    prefix: ClassVar[str] = "llm_"

    mode: Literal["replay", "live", "record"] = _setting(
        "replay",
        "replay: stored answers only; live: ask a server for missing ones; record: "
        "ask also for what the shipped recordings hold",
    )
    model: str = _setting(
        "recorded",
        "name of the model, part of the key of every answer",
        source="Negative Matters (GPT-4o) in the paper profile",
    )
    temperature: float = _setting(
        1.0, "decoding temperature", source="E5-mistral", ge=0, le=2
    )
    top_p: float = _setting(1.0, "nucleus", source="E5-mistral", gt=0, le=1)
    max_tokens: int = _setting(2048, "longest answer", unit="tokens", gt=0)
    structured: Literal["json_schema", "json_object", "none"] = _setting(
        "json_schema", "how the server is told the form of an answer, if it can be"
    )
    reasks: int = _setting(
        2, "times that a rejected answer is asked for again, the fault told", ge=0
    )
    in_flight: int = _setting(8, "requests under way at once", gt=0)
    requests_per_minute: int = _setting(
        0, "attempts a minute, the SDK's retries included; 0: no limit", ge=0
    )
    tokens_per_minute: int = _setting(
        0, "tokens a minute, asked and answered; 0: no limit", unit="tokens", ge=0
    )
    timeout_s: float = _setting(120.0, "patience per attempt", unit="s", gt=0)
    retries: int = _setting(5, "attempts of the SDK after a failure", ge=0)
    give_up: int = _setting(
        20, "failed requests in a row after which nothing more is asked", gt=0
    )
    max_cost: float = _setting(
        0.0, "most that the store's answers may cost in all; 0: no limit", ge=0,
        unit="currency of the price table",
    )  # fmt: skip
    prices: str = _setting(
        "", "csv of prices whose rows go before those of data/prices/prices.csv"
    )
    store: str = _setting(
        "runs/answers.sqlite", "file that keeps every live answer as it arrives"
    )


class Synthesis(Section):
    """What is asked for, and what an answer must be (notebooks 01 and 02)."""

    families: list[str] = _setting(
        FAMILIES, "families of domains to work with", min_length=1
    )
    max_items: int = _setting(
        0, "at most so many recorded items per kind and family; 0: all", ge=0
    )
    syneg_reflection: bool = _setting(
        True, "the prompt asks for reasoning and a check of each draft", source="SyNeg"
    )
    syneg_attributes: bool = _setting(
        True, "the prompt says the reader's level and the length", source="SyNeg"
    )
    mgh_calls: Literal["ladder", "level"] = _setting(
        "ladder",
        "seeds of a retrieval set: one call for the whole ladder, or one a level",
        source="Negative Matters (ladder)",
    )
    languages: list[str] = _setting(
        ["English"], "languages of graded examples, taking turns", min_length=1
    )
    bitext: bool = _setting(
        False,
        "a sixth group: translations from the first language into the second",
        source="E5-mistral",
    )
    near_duplicate: float = _setting(
        0.8,
        "share of word 3-grams in common from which two texts are near-duplicates",
        gt=0,
        le=1,
    )
    judged_queries: int = _setting(
        40,
        "queries whose mined negatives a model judges, in notebook 03; live only",
        unit="queries",
        gt=0,
    )


class Encoder(Section):
    """The student and the encoders beside it (notebooks 04 and 05)."""

    reference: str = _setting(MINILM, "encoder that measures similarity in the figures")
    student: str = _setting(
        MINILM,
        "model to train: hub name, folder, or tiny-mistral / tiny-bert",
        source="Negative Matters (Mistral-7B-Instruct-v0.2) in the paper profile",
    )
    quantization: Literal["nf4", "none"] = _setting(
        "nf4", "weights of the frozen backbone", source="QLoRA"
    )
    compute_dtype: Literal["auto", "bfloat16", "float32"] = _setting(
        "auto", "matrix products; auto: bfloat16 where the processor has it"
    )
    lora_r: int = _setting(16, "LoRA rank", source="LLM2Vec", gt=0)
    lora_alpha: int = _setting(32, "LoRA scale", source="LLM2Vec", gt=0)
    lora_dropout: float = _setting(0.0, "LoRA dropout", ge=0, lt=1)
    bidirectional: bool = _setting(
        True, "decoders attend both ways", source="LLM2Vec, section 2"
    )
    pooling: Literal["mean", "last", "first", "weighted_mean", "ata"] = _setting(
        "ata", "tokens to one vector", source="Negative Matters, ATA"
    )
    ata_transform: Literal["log", "sum", "printed"] = _setting(
        "log",
        "attention a to weight, K tokens: log(1 + K a); a; log(a (K + 1)) as printed",
        source="Negative Matters, our reading; printed: as a review has it",
    )
    ata_gradient: bool = _setting(
        False, "gradient also through ATA's weights (the paper does not say)"
    )
    pooled_tokens: Literal["llm2vec", "all", "text"] = _setting(
        "llm2vec",
        "llm2vec: not what stands before the text; all: every token; text: it alone",
        source="LLM2Vec (Negative Matters does not say)",
    )
    text_format: Literal["plain", "inst", "e5"] = _setting(
        "plain",
        "how instruction and text are written together",
        source="LLM2Vec (inst) in the paper profile",
    )
    max_length: int = _setting(160, "longest text", unit="tokens", gt=7)
    encode_batch: int = _setting(64, "texts encoded at once", unit="texts", gt=0)
    gradient_checkpointing: bool = _setting(
        False, "recompute activations to save memory"
    )


class Mining(Section):
    """Who scores candidates and which become negatives (notebook 03)."""

    teachers: list[str] = _setting(
        ["bm25", MINILM],
        "who scores candidates: bm25, random, a hub name, a folder or server:MODEL",
        min_length=1,
        source="NV-Retriever (e5-mistral-7b-instruct) in the paper profile",
    )
    candidate_depth: int = _setting(
        100,
        "candidates kept per query",
        unit="documents",
        gt=0,
        source="NV-Retriever (at least 100)",
    )
    negatives_per_query: int = _setting(
        4, "negatives mined per query", unit="documents", gt=0, source="NV-Retriever"
    )
    mining_method: Literal["naive", "shifted", "abs", "margin_pos", "perc_pos"] = (
        _setting("perc_pos", "which candidates may be negatives", source="NV-Retriever")
    )
    shift: int = _setting(10, "ranks dropped by `shifted`", source="NV-Retriever", ge=0)
    abs_threshold: float = _setting(0.7, "ceiling of `abs`", source="NV-Retriever")
    margin: float = _setting(0.05, "margin of `margin_pos`", source="NV-Retriever")
    perc: float = _setting(0.95, "share of `perc_pos`", source="NV-Retriever", gt=0)
    sample_from: int = _setting(
        10, "top candidates to sample from", source="NV-Retriever", gt=0
    )


class Training(Section):
    """Order, mixing, loss and steps (notebook 05)."""

    schedule: Literal[
        "curriculum",
        "reverse",
        "random",
        "fixed-1",
        "fixed-2",
        "fixed-3",
        "fixed-4",
        "all",
    ] = _setting(
        "curriculum",
        "order of the levels; all: every level in every step",
        source="Negative Matters",
    )
    steps_per_level: int = _setting(
        12,
        "steps on each level",
        unit="steps",
        gt=0,
        source="Negative Matters (400, our reading) in the paper profile",
    )
    retrieval_steps: int = _setting(
        0,
        "steps of a retrieval phase after the levels: retrieval items and retrieved "
        "negatives only",
        unit="steps",
        ge=0,
    )
    batches_from: Literal["all", "dataset", "task"] = _setting(
        "all",
        "where the instances of one batch are from",
        source="LLM2Vec (one data set) in the paper profile",
    )
    batch_size: int = _setting(24, "queries a step", unit="queries", gt=0)
    mini_batch: int = _setting(
        24, "texts that go through the model at once", unit="texts", gt=0
    )
    mini_batch_tokens: int = _setting(
        1536,
        "tokens, padding included, that go through the model at once; mini_batch "
        "still holds; 0: no such limit",
        unit="tokens",
        ge=0,
    )
    gradient_cache: bool = _setting(
        False,
        "keep the activations of one mini-batch only, for a second forward pass",
        source="GradCache",
    )
    learning_rate: float = _setting(1e-3, "peak learning rate", gt=0)
    warmup_steps: int = _setting(8, "linear warm-up", unit="steps", ge=0)
    weight_decay: float = _setting(0.0, "AdamW's weight decay", ge=0)
    temperature: float = _setting(
        0.05,
        "InfoNCE temperature",
        gt=0,
        source="LLM2Vec (0.02) in the paper profile",
    )
    symmetric: bool = _setting(
        False, "the loss also asks for each positive's query among the queries"
    )
    known_positives: Literal["labelled", "all"] = _setting(
        "labelled",
        "right answers that a query never has as negatives: the labelled ones of all "
        "records that ask the same; all: the planted ones too, which mining is not "
        "told of",
    )
    checkpoint_every: int = _setting(
        10, "steps from one checkpoint to the next", unit="steps", gt=0
    )
    mixing: Literal["synthetic", "retrieved", "direct", "hybrid"] = _setting(
        "hybrid", "how retrieved negatives join the synthetic ones", source="SyNeg"
    )
    retrieved_per_query: int = _setting(
        1,
        "retrieved negatives beside a synthetic one",
        source="SyNeg (2) in the paper profile",
        ge=0,
    )
    synthetic_ratio: float = _setting(
        0.0,
        "synthetic negatives for each retrieved one, of 1 + retrieved_per_query; 0: "
        "one to retrieved_per_query",
        ge=0,
        source="SyNeg (R, best 0.7; that it is this ratio is our reading)",
    )
    optimizer: Literal["adamw", "paged_adamw_8bit"] = _setting(
        "adamw", "paged_adamw_8bit needs a GPU"
    )


class Evaluation(Section):
    """What is scored, and how sure it is (notebook 06)."""

    tasks: list[str] = _setting(
        ["local"],
        "local: tasks from held-out recordings; otherwise mteb task names",
        min_length=1,
    )
    bootstrap_samples: int = _setting(2000, "resamples of an interval", gt=99)


class Settings(Section):
    """Every setting: what all rooms share, then one section a room."""

    profile: str = _setting("workshop", "name of the profile these settings began from")
    seed: int = _setting(0, "seed of every random draw", ge=0)
    device: Literal["auto", "cpu", "cuda"] = _setting("auto", "where models run")
    min_memory_gb: float = _setting(
        4.0, "free memory without which a run is refused", unit="GB", ge=0
    )
    llm: LLM = LLM()
    synthesis: Synthesis = Synthesis()
    encoder: Encoder = Encoder()
    mining: Mining = Mining()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    def flat(self) -> dict[str, Any]:
        """Flat name to value, as it is written into files."""
        return {
            name: getattr(getattr(self, section) if section else self, leaf)
            for name, (section, leaf) in PLACES.items()
        }

    def changed(self, **changes: Any) -> Settings:
        """The same settings but for some, by flat name; checked as at the start."""
        values = {**self.flat(), **changes}
        unknown = values.keys() - PLACES.keys()
        if unknown:
            raise KeyError(f"no setting {min(unknown)!r}")
        return Settings(**nested(values))


def _places() -> dict[str, tuple[str, str]]:
    found = {}
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= {kind.prefix + leaf: (name, leaf) for leaf in kind.model_fields}
        else:
            found[name] = ("", name)
    return found


Settings.model_rebuild()
PLACES = _places()
"""Flat name to (section, name in it); the section of what all rooms share is ""."""


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values by flat name as `Settings` takes them, by section."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        section, leaf = PLACES[name]
        (made.setdefault(section, {}) if section else made)[leaf] = value
    return made


def field_of(name: str):
    """The field of a setting by its flat name."""
    section, leaf = PLACES[name]
    kind = Settings.model_fields[section].annotation if section else Settings
    return kind.model_fields[leaf]
