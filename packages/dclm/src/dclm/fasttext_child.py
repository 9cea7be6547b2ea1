"""Trains fastText in a process of its own: `python -m dclm.fasttext_child TEXT MODEL BUCKETS EPOCHS SEED`.

fasttext-numpy2 0.10 reads memory before it writes it: in a process that has used its memory, training ends with NaN or
with a worse model, depending on what lay there. A new process whose allocator hands out zeros has neither problem.
"""

import os
import subprocess
import sys
from pathlib import Path

ZEROED = {"MALLOC_PERTURB_": "255"}  # glibc fills new memory with the complement of this byte


def train(text: Path, model: Path, *, num_buckets: int, epochs: int, seed: int) -> None:
    """Train on a file of labelled lines and write a model.

    Args:
        text: A line per document, `__label__NAME` first.
        model: File to write.
        num_buckets: Rows for hashed bigrams.
        epochs: Passes.
        seed: Of the weights.

    Raises:
        RuntimeError: fastText failed.
    """
    command = [sys.executable, "-m", "dclm.fasttext_child", text, model, num_buckets, epochs, seed]
    done = subprocess.run(list(map(str, command)), env=os.environ | ZEROED, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"fastText's training failed: {(done.stderr.splitlines() or ['no message'])[-1]}")


def main() -> None:
    """Train with the paper's settings: bigrams, one thread for equal models, all else by default."""
    import fasttext

    text, path, buckets, epochs, seed = sys.argv[1:]
    counts = {"bucket": int(buckets), "epoch": int(epochs), "seed": int(seed)}
    model = fasttext.train_supervised(text, wordNgrams=2, thread=1, verbose=0, **counts)
    model.save_model(path)


if __name__ == "__main__":
    main()
