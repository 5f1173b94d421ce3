"""Every setting in sections, one a room: default, source, unit, and below its meaning.

`source` is the paper that a default is from (in brackets: the paper's own value);
"ours" is a choice of this lab, where papers are silent or the machine is smaller.
"""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
FAMILIES = ["health", "money", "computing", "nature", "culture", "home", "industry"]


def opt(default: Any, source: str = "ours", unit: str = "", **limits):
    """A setting: its default and where that is from; the line below says the rest."""
    extra = {"unit": unit, "source": source}
    return Field(default=default, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """The settings of one room. No unknown name, no silent conversion, no change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False,
        use_attribute_docstrings=True,
    )  # fmt: skip
    prefix: ClassVar[str] = ""
    """What stands before the names of the section where they are written flat."""


class LLM(Section):
    """Asking a language model (notebooks 01 and 02)."""

    prefix: ClassVar[str] = "llm_"

    mode: Literal["replay", "live", "record"] = opt("replay")
    """replay: stored answers only; live: asks for others; record: shipped ones too"""
    model: str = opt("recorded", "Negative Matters (GPT-4o)")
    """name of the model, part of the key of every answer"""
    temperature: float = opt(1.0, "E5-mistral", ge=0, le=2)
    """decoding temperature"""
    top_p: float = opt(1.0, "E5-mistral", gt=0, le=1)
    """nucleus"""
    max_tokens: int = opt(2048, unit="tokens", gt=0)
    """longest answer"""
    structured: Literal["json_schema", "json_object", "none"] = opt("json_schema")
    """how the server is told the form of an answer, if it can be"""
    without: list[Literal["temperature", "top_p", "max_tokens", "response_format"]] = (
        opt([])
    )
    """parameters not sent; max_tokens then goes by the name max_completion_tokens"""
    reasks: int = opt(2, ge=0)
    """times that a rejected answer is asked for again, the fault told"""
    in_flight: int = opt(8, gt=0)
    """requests under way at once"""
    requests_per_minute: int = opt(0, ge=0)
    """attempts a minute, the SDK's retries included; 0: no limit"""
    tokens_per_minute: int = opt(0, unit="tokens", ge=0)
    """tokens a minute, asked and answered; 0: no limit"""
    timeout_s: float = opt(120.0, unit="s", gt=0)
    """patience per attempt"""
    retries: int = opt(5, ge=0)
    """attempts of the SDK after a failure"""
    give_up: int = opt(20, gt=0)
    """failed requests in a row after which nothing more is asked"""
    max_cost: float = opt(0.0, unit="currency of the price table", ge=0)
    """most that the store's answers may cost in all; 0: no limit"""
    prices: str = opt("")
    """csv of prices whose rows go before those of data/prices/prices.csv"""
    store: str = opt("runs/answers.sqlite")
    """file that keeps every live answer as it arrives"""


class Synthesis(Section):
    """What is asked for, and what an answer must be (notebooks 01 and 02)."""

    families: list[str] = opt(FAMILIES, min_length=1)
    """families of domains to work with"""
    max_items: int = opt(0, ge=0)
    """at most so many recorded items per kind and family; 0: all"""
    syneg_reflection: bool = opt(True, "SyNeg")
    """the prompt asks for reasoning and a check of each draft"""
    syneg_attributes: bool = opt(True, "SyNeg")
    """the prompt says the reader's level and the length"""
    mgh_calls: Literal["ladder", "level"] = opt("ladder", "Negative Matters (ladder)")
    """seeds of a retrieval set: one call for the whole ladder, or one a level"""
    languages: list[str] = opt(["English"], min_length=1)
    """languages of graded examples, taking turns"""
    near_duplicate: float = opt(0.8, gt=0, le=1)
    """share of word 3-grams in common from which two texts are near-duplicates"""
    judged_queries: int = opt(40, unit="queries", gt=0)
    """queries whose mined negatives a model judges, in notebook 03; live only"""


class Encoder(Section):
    """The student and the encoders beside it (notebooks 04 and 05)."""

    reference: str = opt(MINILM)
    """encoder that measures similarity in the figures"""
    student: str = opt(SMOLLM2, "Negative Matters (Mistral-7B-Instruct-v0.2)")
    """model to train: hub name, folder, or tiny-mistral / tiny-bert"""
    student_layers: int = opt(0, "L3Prune (arXiv 2410.14578)", unit="layers", ge=0)
    """first layers of the student that are kept; 0: all; 8 unless set, of SmolLM2"""
    quantization: Literal["nf4", "none"] = opt("nf4", "QLoRA")
    """weights of the frozen backbone"""
    compute_dtype: Literal["auto", "bfloat16", "float32"] = opt("auto")
    """matrix products; auto: bfloat16 where the processor has it"""
    lora_r: int = opt(16, "LLM2Vec", gt=0)
    """LoRA rank"""
    lora_alpha: int = opt(32, "LLM2Vec", gt=0)
    """LoRA scale"""
    lora_dropout: float = opt(0.0, ge=0, lt=1)
    """LoRA dropout"""
    bidirectional: bool = opt(True, "LLM2Vec, section 2")
    """decoders attend both ways"""
    pooling: Literal["mean", "last", "first", "weighted_mean", "ata"] = opt(
        "ata", "Negative Matters, ATA"
    )
    """tokens to one vector"""
    ata_transform: Literal["log", "sum", "printed"] = opt(
        "log", "Negative Matters, our reading; a review has it as printed"
    )
    """attention a to weight, K tokens: log(1 + K a); a; log(a (K + 1)) as printed"""
    ata_gradient: bool = opt(False)
    """gradient also through ATA's weights (the paper does not say)"""
    pooled_tokens: Literal["llm2vec", "all", "text"] = opt(
        "llm2vec", "LLM2Vec (Negative Matters does not say)"
    )
    """llm2vec: not what stands before the text; all: every token; text: it alone"""
    text_format: str = opt("plain", "LLM2Vec (inst)")
    """plain, e5, inst (Mistral's own), chat (SmolLM2's) or a template with {text}"""
    max_length: int = opt(160, unit="tokens", gt=7)
    """longest text"""
    encode_batch: int = opt(64, unit="texts", gt=0)
    """texts encoded at once, or sent at once to an embeddings server"""
    gradient_checkpointing: bool = opt(False)
    """recompute activations to save memory"""


class Mining(Section):
    """Who scores candidates and which become negatives (notebook 03)."""

    teachers: list[str] = opt(
        ["bm25", MINILM], "NV-Retriever (e5-mistral-7b-instruct)", min_length=1
    )
    """who scores: bm25, random, a hub name, a folder, server:MODEL, vectors:FOLDER"""
    ensemble: Literal["none", "cross_sample", "intra_sample", "intra_sample_dedup"] = (
        opt("none", "NV-Retriever")
    )
    """how the teachers choose together; none: the last one alone"""
    candidate_depth: int = opt(100, "NV-Retriever (100 or more)", "documents", gt=0)
    """candidates kept per query"""
    index: str = opt("")
    """for `mine`: a faiss index such as IVF256,Flat or HNSW32; empty: exact search"""
    rescore_with: str = opt("")
    """cross-encoder that scores again (RocketQA's filter), a name or folder; or none"""
    negatives_per_query: int = opt(4, "NV-Retriever", unit="documents", gt=0)
    """negatives mined per query"""
    mining_method: Literal["naive", "shifted", "abs", "margin_pos", "perc_pos"] = opt(
        "perc_pos", "NV-Retriever"
    )
    """which candidates may be negatives"""
    shift: int = opt(10, "NV-Retriever", ge=0)
    """ranks dropped by `shifted`"""
    abs_threshold: float = opt(0.7, "NV-Retriever")
    """ceiling of `abs`"""
    margin: float = opt(0.05, "NV-Retriever")
    """margin of `margin_pos`"""
    perc: float = opt(0.95, "NV-Retriever", ge=0)
    """share of `perc_pos`"""
    max_score: float | None = opt(None, "sentence-transformers")
    """ceiling beside that of the method; none: null"""
    min_score: float | None = opt(None, "sentence-transformers")
    """least score of a negative; none: null"""
    anchor: Literal["min", "max"] = opt("min")
    """which of several positives' scores a ceiling is made from"""
    selection: Literal["top_k", "sampled", "top1_sampled"] = opt(
        "top_k", "NV-Retriever"
    )
    """which of the candidates that are left are taken"""
    sample_from: int = opt(10, "NV-Retriever", gt=0, validate_default=True)
    """top candidates to sample from"""
    sampling_temperature: float = opt(1.0, "ours (NV-Retriever does not say)", gt=0)
    """draws follow the softmax of score / temperature; uniform from about 1000 on"""
    backfill: Literal["none", "random"] = opt("none")
    """what is added, and marked, where negatives are lacking: documents drawn"""

    @property
    def needed(self) -> int:
        """Candidates that must be left for the selection to be what it says."""
        whole = self.selection == "top_k"
        return self.negatives_per_query if whole else self.sample_from

    @field_validator("sample_from")
    @classmethod
    def _enough(cls, count: int, info: ValidationInfo) -> int:
        least = info.data.get("negatives_per_query", 0)
        if info.data.get("selection", "top_k") != "top_k" and count < least:
            raise ValueError(f"it must be at least negatives_per_query, {least}")
        return count


class Training(Section):
    """Order, mixing, loss and steps (notebook 05)."""

    schedule: Literal[
        "curriculum", "reverse", "random",
        "fixed-1", "fixed-2", "fixed-3", "fixed-4", "all",
    ] = opt("curriculum", "Negative Matters")  # fmt: skip
    """order of the levels; all: every level in every step"""
    steps_per_level: int = opt(12, "Negative Matters (400, our reading)", "steps", gt=0)
    """steps on each level"""
    retrieval_steps: int = opt(0, unit="steps", ge=0)
    """steps of a last phase of retrieval items and retrieved negatives only"""
    batches_from: Literal["all", "dataset", "task"] = opt("all", "LLM2Vec (dataset)")
    """where the instances of one batch are from"""
    batch_size: int = opt(24, unit="queries", gt=0)
    """queries a step"""
    mini_batch: int = opt(24, unit="texts", gt=0)
    """texts that go through the model at once"""
    mini_batch_tokens: int = opt(1536, unit="tokens", ge=0)
    """tokens at once, with padding, beside the limit mini_batch; 0: no such limit"""
    gradient_cache: bool = opt(False, "GradCache")
    """keep the activations of one mini-batch only, for a second forward pass"""
    learning_rate: float = opt(1e-3, gt=0)
    """peak learning rate"""
    warmup_steps: int = opt(8, unit="steps", ge=0)
    """linear warm-up"""
    weight_decay: float = opt(0.0, ge=0)
    """AdamW's weight decay"""
    temperature: float = opt(0.05, "LLM2Vec (0.02)", gt=0)
    """InfoNCE temperature"""
    symmetric: bool = opt(False)
    """the loss also asks for each positive's query among the queries"""
    in_batch: bool = opt(True)
    """the batch's other documents are negatives too, beside a query's own"""
    known_positives: Literal["labelled", "all"] = opt("labelled")
    """right answers that are never negatives of a query that asks the same; all: with
    the planted ones, which mining is not told of"""
    causalneg: float = opt(0.0, "CausalNeg (0.05)", ge=0)
    """weight of CausalNeg's penalty on a query's synthetic negatives; 0: none"""
    checkpoint_every: int = opt(10, unit="steps", gt=0)
    """steps from one checkpoint to the next"""
    mixing: Literal["synthetic", "retrieved", "direct", "hybrid"] = opt(
        "hybrid", "SyNeg"
    )
    """how retrieved negatives join the synthetic ones"""
    retrieved_per_query: int = opt(1, "SyNeg (2)", ge=0)
    """retrieved negatives beside a synthetic one"""
    synthetic_ratio: float = opt(0.0, "SyNeg (R, best 0.7; our reading)", ge=0)
    """synthetic negatives for a retrieved one, of 1 + retrieved_per_query; 0: one to
    retrieved_per_query"""
    optimizer: Literal["adamw", "paged_adamw_8bit"] = opt("adamw")
    """paged_adamw_8bit needs a GPU"""


class Evaluation(Section):
    """What is scored, and how sure it is (notebook 06)."""

    tasks: list[str] = opt(["local"], min_length=1)
    """local: tasks from held-out recordings; otherwise mteb task names"""
    bootstrap_samples: int = opt(2000, gt=99)
    """resamples of an interval"""
