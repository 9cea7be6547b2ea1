"""Filters: functions from documents to pairs of a document and the reason to drop it, or None to keep it.

from dclm import Document, filters

for document, reason in filters.gopher([Document("short")]):
print(reason)  # gopher_short_document
"""

from dclm.decontaminate import decontaminate
from dclm.extract import extract
from dclm.filters.c4 import c4
from dclm.filters.fineweb import fineweb
from dclm.filters.gopher import gopher
from dclm.filters.refinedweb import refinedweb
from dclm.language import keep_language

__all__ = ["c4", "decontaminate", "extract", "fineweb", "gopher", "keep_language", "refinedweb"]
