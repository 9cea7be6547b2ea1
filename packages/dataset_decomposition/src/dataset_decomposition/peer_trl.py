"""Run by `peers.run_trl` in an environment with TRL; imports nothing of this package."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Pack and print what came of it."""
    import datasets
    import numpy as np
    import pyarrow as pa
    from trl import pack_dataset

    strategy, folder, length, repeats = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    datasets.disable_progress_bars()
    tokens, offsets = np.load(folder / "tokens.npy"), np.load(folder / "offsets.npy")
    column = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(tokens.astype(np.int64)))
    dataset = datasets.Dataset(pa.table({"input_ids": column}))
    options = {"load_from_cache_file": False, "keep_in_memory": True}
    found = {"rows": 0, "tokens": 0, "first": 0}
    for _ in range(repeats):
        packed = pack_dataset(dataset, length, strategy, options)
    if repeats:
        ids = packed.data.column("input_ids").combine_chunks()
        found = {"rows": len(packed), "tokens": len(ids.flatten()), "first": sum(packed[0]["input_ids"])}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
