"""Which language a text is in, by fastText's lid.176 (the compressed model comes with this package, CC BY-SA 3.0)."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError

from dclm.config import Language
from dclm.document import Document

__all__ = ["detect_language", "keep_language", "load_fasttext"]

BLANK = frozenset(string.punctuation + " ")
FIELD = "language_id_whole_page_fasttext"
MAGIC = (793712314).to_bytes(4, "little")  # of every fastText model


@lru_cache(maxsize=4)
def load_fasttext(path: str | None = None) -> Any:
    """Load a fastText model, by default the language model of this package.

    Args:
        path: A `.bin` or `.ftz` file.

    Returns:
        The model.

    Raises:
        InputError: No such file, or not a fastText model.
    """
    import fasttext

    if path is None:
        path = str(resources.files("dclm").joinpath("data", "lid.176.ftz"))
    if not Path(path).is_file():
        raise InputError(f"no model at {path}; give a fastText file (.bin or .ftz).")
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise InputError(f"{path} is no fastText model; give a .bin or .ftz file.")
    try:
        return fasttext.load_model(path)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path} is a damaged fastText model ({error}).") from error


def detect_language(text: str, *, model: str | None = None, compat: bool = False) -> dict[str, float]:
    """Name the language of a text with its probability.

    Args:
        text: Any text.
        model: fastText model; None is lid.176.ftz.
        compat: Delete line breaks as the reference does, which glues words of neighbouring lines together; by
            default they become spaces.

    Returns:
        One entry, code to probability; empty for a text of ASCII punctuation and spaces only.

    Example:
        >>> list(detect_language("This is a sentence in English."))
        ['en']
    """
    line = text.replace("\n", "" if compat else " ")
    if BLANK.issuperset(line):
        return {}
    labels, probabilities = load_fasttext(model).predict(line)
    return {labels[0].removeprefix("__label__"): float(probabilities[0])}


def keep_language(
    documents: Iterable[Document], config: Language = Language()
) -> Iterator[tuple[Document, str | None]]:
    """Keep documents of one language.

    Args:
        documents: Any documents; the field `language_id_whole_page_fasttext` is written.
        config: Language, probability, model.

    Yields:
        Each document and None, or the reason `language`.
    """
    for document in documents:
        found = detect_language(document.text, model=config.model)
        document.fields[FIELD] = found
        yield document, None if found.get(config.language, 0.0) > config.min_probability else "language"
