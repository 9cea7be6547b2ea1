"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import hashlib
from pathlib import Path

import pytest
from dclm import Document, read_documents, sample_pool
from dclm.extract import extract


@pytest.fixture(scope="session")
def pool_texts() -> list[str]:
    """Texts of the sample pool, in its order."""
    return [document.text for path in sample_pool() for document, _ in extract(read_documents(path)) if document.text]


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
