"""Run by `peers.trl_packer` in an environment with TRL; imports nothing of this package.

Reads lines of a strategy and a number of repeats, and answers each with a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Load the documents, then pack them as often as asked."""
    import datasets
    import numpy as np
    import pyarrow as pa

    pack_dataset = importlib.import_module("trl").pack_dataset  # not installed where types are checked
    folder, length = Path(sys.argv[1]), int(sys.argv[2])
    datasets.disable_progress_bars()
    tokens, offsets = np.load(folder / "tokens.npy"), np.load(folder / "offsets.npy")
    column = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(tokens.astype(np.int64)))
    dataset = datasets.Dataset(pa.table({"input_ids": column}))
    options = {"load_from_cache_file": False, "keep_in_memory": True}
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        strategy, repeats = line.split()
        for _ in range(int(repeats)):
            packed = pack_dataset(dataset, length, strategy, options)
        ids = packed.data.column("input_ids").combine_chunks()
        found = {"rows": len(packed), "tokens": len(ids.flatten()), "first": sum(packed[0]["input_ids"])}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
