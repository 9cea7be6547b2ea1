"""Deduplication: functions from documents to pairs of a document and the reason to drop it, or None to keep it.

    from dclm import Document, dedup

    for document, reason in dedup.exact([Document("twice"), Document("twice")]):
        print(reason)  # None, then duplicate_text

Each exists twice: as a function on documents in memory, and as phases that the pipeline runs over shards of any size,
with the same decisions.
"""

from dclm.dedup.bloom import bloom
from dclm.dedup.bloom_filter import BloomFilter, SaturatedFilterError
from dclm.dedup.exact import exact
from dclm.dedup.minhash import minhash
from dclm.dedup.substring import substring

__all__ = ["BloomFilter", "SaturatedFilterError", "bloom", "exact", "minhash", "substring"]
