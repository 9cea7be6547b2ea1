"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"  # models here are so small that a second thread slows them down

import json

import numpy as np
import pytest
from dataset_decomposition.store import write_store

WORDS = "the quick brown fox jumps over a lazy dog while seventeen badgers count stars".split()


@pytest.fixture(scope="session")
def texts():
    """Texts of 0 to a few thousand words, most of them short."""
    generator = np.random.default_rng(0)
    sizes = np.minimum(generator.lognormal(3.5, 1.3, 120).astype(int), 3000)
    return [" ".join(generator.choice(WORDS, size)) for size in sizes]


@pytest.fixture(scope="session")
def corpus(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def documents():
    """Token ids; every document has its own, so that a leak between documents shows."""
    generator = np.random.default_rng(1)
    sizes = np.maximum(2, generator.lognormal(4.5, 1.2, 300).astype(int))
    return [np.full(size, index % 500) * 64 + np.arange(size) % 64 for index, size in enumerate(sizes)]


@pytest.fixture
def store(documents, tmp_path):
    return write_store(tmp_path / "store", documents, vocab_size=32_000).decompose(min_length=32, max_length=256)
