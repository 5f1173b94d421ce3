"""Seeded draws that depend on names alone: not on order, blocks or resuming."""

import hashlib

import numpy as np


def key(name: str) -> int:
    """A 64-bit key of a name, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def mix(value: np.ndarray) -> np.ndarray:
    """splitmix64, of 64-bit integers."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def uniform(seed: int, query_keys, document_keys) -> np.ndarray:
    """One number in (0, 1) per (seed, query, document), whatever else is drawn.

    Keys are uint64 and broadcast: 20,000 queries need no 20,000 generator objects.
    """
    base = mix(query_keys ^ np.uint64(key(f"seed {seed}")))
    return ((mix(base ^ document_keys) >> np.uint64(11)) + 0.5) / 2.0**53
