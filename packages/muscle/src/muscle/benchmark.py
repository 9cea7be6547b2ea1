"""Comparing a million answers beside a loop over rows, and a compatibility step beside a plain peft step.

    muscle benchmark --budget laptop        (two cores, under three minutes)

`compare` reads two parquet files in different orders, aligns them by id, counts, and draws 10,000 bootstrap samples;
the peer reads the same files with pyarrow and counts the same flips row by row, without any interval. Seconds are CPU
seconds of this process, medians over interleaved rounds. The steps train a LoRA adapter on a Llama of 4 layers x 192
with batches of 16 rows of 64 tokens: with cross-entropy alone, with L_comp on cached teachers, and with both teachers
in the loop. Checked: counts of ours and the peer are equal, and the cached loss is that of teachers in the loop.
"""

from __future__ import annotations

import hashlib
import resource
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra
from tenfold_shared.progress import progress

from muscle.comparison import compare
from muscle.records import DIST

Budget = Literal["smoke", "laptop", "full"]
PAIRS: dict[Budget, int] = {"smoke": 20_000, "laptop": 1_000_000, "full": 1_000_000}
ROUNDS: dict[Budget, int] = {"smoke": 2, "laptop": 5, "full": 9}
STEP_ROWS, STEP_TOKENS, VOCABULARY, TOP = 16, 64, 4096, 64
COMPARE_AIM_SECONDS = 3  # CPU seconds, no ratio
STEP_AIM = 0.87  # a step takes at most 1.15 times as long as a plain one


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Time both parts and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: Number of answers and of rounds.
        seed: Of the answers.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, aim, input_hash`; `ratio` over 1: ours is
        better.

    Raises:
        RuntimeError: A check of the outputs fails.
    """
    with tempfile.TemporaryDirectory(dir=out) as folder:
        files = write_answers(Path(folder), PAIRS[budget], seed)
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        parts = (
            lambda: _comparing(files, PAIRS[budget], ROUNDS[budget]),
            lambda: _stepping(Path(folder), ROUNDS[budget], 2 if budget == "smoke" else 8),
        )
        rows = [row for part in progress(parts, description="benchmark", unit="parts") for row in part()]
    return [{"paper": "muscle", **row, "input_hash": digest} for row in rows]


def write_answers(folder: Path, num: int, seed: int) -> tuple[Path, Path]:
    """Write two systems' answers to `num` questions of four choices, in different orders, as parquet."""
    arrow, parquet = require_extra("pyarrow", "demo", DIST), require_extra("pyarrow.parquet", "demo", DIST)
    generator = np.random.default_rng(seed)
    letters, gold = np.array(list("ABCD")), generator.integers(0, 4, num)
    files = []
    for name, accuracy in (("old", 0.7), ("new", 0.75)):
        answer = np.where(generator.random(num) < accuracy, gold, generator.integers(0, 4, num))
        order = generator.permutation(num)
        columns = {"id": order, "prediction": letters[answer[order]], "gold": letters[gold[order]]}
        files.append(folder / f"{name}.parquet")
        parquet.write_table(arrow.table(columns), files[-1])
    return files[0], files[1]


def _comparing(files: tuple[Path, Path], num: int, rounds: int) -> list[dict[str, Any]]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: Any = compare(*files).result
    grown = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 1)  # kilobytes, the least that is seen
    if (result.broken, result.fixed) != count_rows(files):
        raise RuntimeError("our counts differ from those of the loop over rows.")
    size = sum(file.stat().st_size for file in files) / num
    peer = "a loop over rows, no intervals"
    calls = {"ours": lambda: compare(*files), peer: lambda: count_rows(files)}
    work = f"compare {num:,} pairs with bootstrap (aim: {COMPARE_AIM_SECONDS} CPU seconds)"
    memory = {"ours": grown * 1024 / num, "the two files": size}
    return [
        comparison(work, interleave(calls, rounds), peer, "CPU seconds"),
        comparison("memory of compare", memory, "the two files", "bytes per pair"),
    ]


def count_rows(files: tuple[Path, Path]) -> tuple[int, int]:
    """Count negative and positive flips row by row in plain Python."""
    parquet = require_extra("pyarrow.parquet", "demo", DIST)
    old, new = ({row["id"]: row for row in parquet.read_table(file).to_pylist()} for file in files)
    broken = fixed = 0
    for key, row in old.items():
        right = row["prediction"] == row["gold"], new[key]["prediction"] == row["gold"]
        broken += right == (True, False)
        fixed += right == (False, True)
    return broken, fixed


def _stepping(folder: Path, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Steps of one adapter, and the cache's size."""
    torch = require_extra("torch", "demo", DIST)
    from muscle.teachers import build_cache, describe

    torch.manual_seed(0)
    torch.set_num_threads(1)
    old, new, student = (_adapted(seed) for seed in (1, 2, 2))
    examples = torch.randint(1, VOCABULARY, (4 * STEP_ROWS, STEP_TOKENS)).tolist()
    full = build_cache(folder / "full", examples, old, new, describe(examples, (old, new), 2.0, 0))
    spec = describe(examples, (old, new), 2.0, TOP)
    top = build_cache(folder / "top", examples, old, new, spec)
    train = _Steps(student, examples, steps)
    in_loop = train.teachers(old, new)
    if abs(float(train.loss(0, full).detach()) - float(train.loss(0, in_loop).detach())) > 1e-3:
        raise RuntimeError("the loss on cached teachers is not that of teachers in the loop.")
    calls = {
        "ours": lambda: train.run(full),
        "plain peft step": lambda: train.run(None),
        "teachers in the loop": lambda: train.run(in_loop),
    }
    seconds = {name: values / steps for name, values in interleave(calls, rounds).items()}
    work = f"compatibility step, {STEP_ROWS} rows of {STEP_TOKENS}, cached teachers"
    sizes = {"ours": top.bytes_per_token, "all logits": full.bytes_per_token}
    return [
        comparison(work, seconds, "plain peft step", "CPU seconds", aim=STEP_AIM),
        comparison(work, seconds, "teachers in the loop", "CPU seconds"),
        comparison(f"cache, top {TOP} and tail", sizes, "all logits", "bytes per token"),
    ]


def _adapted(seed: int) -> Any:
    transformers = require_extra("transformers", "demo", DIST)
    from muscle.config import LoraSettings
    from muscle.models import add_adapter

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=128,
    )
    import torch

    torch.manual_seed(seed)
    return add_adapter(transformers.LlamaForCausalLM(config), LoraSettings(16, 32.0), seed)


class _Steps:
    """Forward, loss, backward and optimiser step, with or without teachers."""

    def __init__(self, model: Any, examples: list[list[int]], steps: int) -> None:
        import torch

        self.model, self.steps = model, steps
        self.ids = torch.tensor(examples)
        self.optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def loss(self, step: int, cache: Any) -> Any:
        """The loss of one batch; without teachers it is cross-entropy."""
        import torch

        from muscle.loss import compatibility_loss
        from muscle.teachers import TeacherCache, cached_losses

        rows = [(step * STEP_ROWS + i) % len(self.ids) for i in range(STEP_ROWS)]
        ids = self.ids[rows]
        logits, labels = self.model(input_ids=ids).logits[:, :-1], ids[:, 1:]
        if cache is None:
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if isinstance(cache, TeacherCache):
            return cached_losses(cache, rows, logits, labels, "muscle").mean()
        old, new = (cache.batch(who, rows, labels.shape[1]) for who in ("old", "new"))
        return compatibility_loss(logits, old, new, labels)

    def run(self, cache: Any) -> None:
        """Take all steps."""
        for step in range(self.steps):
            self.optimiser.zero_grad()
            self.loss(step, cache).backward()
            self.optimiser.step()

    def teachers(self, old: Any, new: Any) -> Any:
        """Teachers with a cache's face that run at every step."""
        return _InLoop({"old": old, "new": new}, self.ids)


class _InLoop:
    def __init__(self, models: dict[str, Any], ids: Any) -> None:
        self.models, self.ids = models, ids

    def batch(self, who: str, rows: list[int], length: int) -> Any:
        """Logits of one teacher, computed now."""
        import torch

        with torch.no_grad():
            return self.models[who](input_ids=self.ids[rows]).logits[:, :length]
