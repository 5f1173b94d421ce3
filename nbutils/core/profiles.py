"""The profiles: what differs from the defaults, by flat name of the setting."""

from typing import Any

from nbutils.core.sections import SMOLLM2

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"
STUDENTS: dict[str, dict[str, Any]] = {
    SMOLLM2: {"text_format": "chat", "student_layers": 8},
    MISTRAL: {"text_format": "inst"},
    "tiny-mistral": {"text_format": "inst"},
}
"""What comes with a student unless it is set: its template, and layers that fit."""

LLM2VEC_SUBSET = [
    "SciFact", "ArguAna", "NFCorpus", "StackOverflowDupQuestions", "SciDocsRR",
    "BiorxivClusteringS2S", "MedrxivClusteringS2S", "TwentyNewsgroupsClustering",
    "SprintDuplicateQuestions", "Banking77Classification", "EmotionClassification",
    "MassiveIntentClassification", "STS17", "SICK-R", "STSBenchmark",
]  # fmt: skip
"""The 15 tasks of MTEB on which LLM2Vec compares its variants."""

PROFILES: dict[str, dict[str, Any]] = {
    "workshop": {},
    "smoke": {
        "min_memory_gb": 1.0, "families": ["health", "industry"], "max_items": 12,
        "student": "tiny-mistral", "max_length": 160,
        "reference": "tiny-bert", "teachers": ["bm25", "tiny-bert"],
        "candidate_depth": 20, "steps_per_level": 2, "warmup_steps": 2,
        "batch_size": 8, "mini_batch": 8, "bootstrap_samples": 200,
    },
    "paper": {
        "device": "cuda", "min_memory_gb": 16.0,
        "llm_mode": "live", "llm_model": "gpt-4o",
        "student": MISTRAL, "max_length": 512, "compute_dtype": "bfloat16",
        "gradient_checkpointing": True,
        "teachers": ["bm25", "intfloat/e5-mistral-7b-instruct"],
        "steps_per_level": 400, "warmup_steps": 300, "learning_rate": 2e-4,
        "temperature": 0.02, "retrieved_per_query": 2, "batches_from": "dataset",
        "batch_size": 512, "mini_batch": 16, "mini_batch_tokens": 8192,
        "gradient_cache": True, "optimizer": "paged_adamw_8bit",
        "tasks": LLM2VEC_SUBSET,
    },
}  # fmt: skip
