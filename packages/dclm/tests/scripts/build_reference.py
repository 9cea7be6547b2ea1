"""Write tests/reference/datatrove.json: datatrove's decisions on the sample pool, words and sentences being ours.

    python tests/scripts/build_reference.py tests/reference/datatrove.json

Runs datatrove in a child environment, see `dclm.peers`.
"""

import json
import sys
import tempfile
from pathlib import Path

from dclm import sample_pool
from dclm.data import read_documents
from dclm.extract import extract
from dclm.peers import DATATROVE, run_datatrove, write_rows

documents = [document for path in sample_pool() for document, reason in extract(read_documents(path)) if reason is None]
with tempfile.TemporaryDirectory() as folder:
    rows = Path(folder, "rows.jsonl")
    write_rows(rows, documents)
    reasons = {job: run_datatrove(f"{job}-given", rows)["reasons"] for job in ("gopher", "fineweb", "c4")}
record = {"peer": DATATROVE, "documents": [document.name for document in documents], "reasons": reasons}
Path(sys.argv[1]).write_text(json.dumps(record) + "\n")
