"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
# Eight devices in one process, for the meshes.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import hashlib
import sys
from pathlib import Path

import pytest
from dclm import Document, RunOptions, read_documents, sample_pool, write_documents
from dclm.extract import extract
from dclm.scales import ModelConfig
from dclm.tokens import TokenOptions, tokenize

sys.path.insert(0, str(Path(__file__).parent))  # `dclm_process` serves two test files


@pytest.fixture(scope="session")
def pool_texts() -> list[str]:
    """Texts of the sample pool, in its order."""
    return [document.text for path in sample_pool() for document, _ in extract(read_documents(path)) if document.text]


@pytest.fixture(scope="session")
def tiny_model():
    """Sizes that compile in seconds; the vocabulary is that of `bytes`, rounded up."""
    return ModelConfig(32, 2, 2, vocab_size=512, context_length=32, hidden_multiple=32)


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory, pool_texts):
    """Token shards of some of the pool's texts, contexts of 33 bytes."""
    folder = tmp_path_factory.mktemp("tokens")
    write_documents(str(folder / "texts.jsonl"), [Document(text[:300]) for text in pool_texts[:60]])
    options = TokenOptions("bytes", context=33, shard_size=100, max_bytes=5_000)
    tokenize([str(folder / "texts.jsonl")], folder / "shards", options, RunOptions(quiet=True))
    return folder / "shards"


@pytest.fixture(scope="session")
def documents():
    """Make documents of texts."""
    return lambda *texts: [Document(text, {"id": str(number)}) for number, text in enumerate(texts)]


@pytest.fixture(scope="session")
def digest():
    """Hash the files below a folder, names among them."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }

    return of
