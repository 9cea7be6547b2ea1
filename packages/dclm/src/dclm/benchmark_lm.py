"""The model half against its peers in one run: bare tokenizers, a torch twin of the same size, safetensors alone.

Tokenization is counted in CPU seconds of the process, all else in wall seconds; in each round all run once, in random
order. Before training is timed, both models get the same weights, and their losses on the same batch must agree.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra

from dclm.data import write_documents
from dclm.document import Document
from dclm.engines import RunOptions
from dclm.scales import ModelConfig, TrainConfig

__all__ = ["compare_models"]

Budget = Literal["smoke", "laptop", "full"]
AIM_TOKENS, AIM_TRAINING = 0.95, 1.0
MODEL = ModelConfig(128, 4, 4, vocab_size=4096, context_length=256, hidden_multiple=128)
CONFIG = TrainConfig(MODEL, 1_000_000, batch_size=8, precision="float32", scan_layers=False)
RATE = 1e-3


@dataclass(frozen=True)
class Plan:
    """Rounds and sizes of one budget."""

    rounds: int
    steps: int  # of a round of training
    megabytes: float  # of text


PLANS: dict[Budget, Plan] = {"smoke": Plan(2, 2, 0.3), "laptop": Plan(5, 8, 2.0), "full": Plan(9, 20, 4.0)}
Row = dict[str, Any]


def compare_models(texts: Sequence[str], folder: Path, budget: Budget) -> list[Row]:
    """Measure tokenization, training, the loader and conversion.

    Args:
        texts: Real documents.
        folder: For temporary files.
        budget: Rounds and sizes.

    Returns:
        Rows as of `dclm.benchmark.measure`.
    """
    plan = PLANS[budget]
    return [*_tokenization(texts, folder, plan), *_training(folder, plan), *_conversion(folder, plan)]


def _tokenization(texts: Sequence[str], folder: Path, plan: Plan) -> list[Row]:
    """From a file of documents to contexts, and to shuffled tars, against the tokenizer on texts in memory."""
    from dclm.tokenizer import load_tokenizer
    from dclm.tokens import TokenOptions, _tokenize_file, tokenize

    tokenizer = load_tokenizer("gpt2")
    drawn: list[str] = []
    while sum(map(len, drawn)) < plan.megabytes * 1e6:
        drawn += texts
    path, options = folder / "texts.jsonl", TokenOptions("gpt2", 2049)
    write_documents(str(path), map(Document, drawn))
    count = sum(map(len, tokenizer.encode_batch(drawn)))
    folders = (folder / f"tokens{number}" for number in itertools.count())

    def contexts() -> None:
        work = next(folders)
        work.mkdir()
        _tokenize_file((str(path), str(work), options), 0)

    peer = "bare tokenizers"
    calls: dict[str, Callable[[], object]] = {
        "contexts": contexts,
        "shuffled tars": lambda: tokenize([str(path)], next(folders), options, RunOptions(quiet=True)),
        peer: lambda: tokenizer.engine.encode_batch_fast(drawn, add_special_tokens=False),
    }
    seconds = interleave(calls, plan.rounds)
    return [
        comparison(
            f"tokenize documents to {what}",
            {"ours": seconds[what], peer: seconds[peer]},
            peer,
            "tokens per CPU s",
            amount=count,
            aim=aim,
        )
        for what, aim in (("contexts", AIM_TOKENS), ("shuffled tars", None))
    ]


def _training(folder: Path, plan: Plan) -> list[Row]:
    """Updates of our trainer, with and without the loader, and of a torch twin with torch's AdamW."""
    import jax

    from dclm.lmtrain import Trainer, build_params
    from dclm.mesh import build_mesh, fetch_tree, put_rows
    from dclm.tokendata import TokenBatches

    torch = require_extra("torch", "torch", "dclm")
    trainer, tokens = Trainer(CONFIG, build_mesh(1)), _shards(folder)
    params = build_params(CONFIG)
    update = _twin(torch, fetch_tree(params))
    state = trainer.start(params)
    batches = TokenBatches(tokens, CONFIG.batch_size, MODEL.vocab_size)
    batch = next(batches)
    first, theirs = (
        float(trainer.loss(state.params, put_rows(trainer.mesh, batch))[1]),
        float(update(batch, step=False)),
    )
    if abs(first - theirs) > 1e-3:
        raise RuntimeError(f"our loss {first} and the torch twin's {theirs} differ on the same weights and batch.")

    def ours(draw: Callable[[], np.ndarray]) -> None:
        nonlocal state
        for _ in range(plan.steps):
            state, metrics = trainer.step(state, put_rows(trainer.mesh, draw()), RATE)
        jax.block_until_ready(metrics)

    def theirs_steps() -> None:
        for _ in range(plan.steps):
            update(batch, step=True)

    calls = {
        "ours": lambda: ours(lambda: batch),
        "torch twin": theirs_steps,
        "from tars": lambda: ours(lambda: next(batches)),
    }
    seconds = interleave(calls, plan.rounds, clock=time.perf_counter)
    batches.close()
    row = partial(comparison, unit="tokens per s", amount=plan.steps * CONFIG.batch_size * MODEL.context_length)
    work, loader = f"training, {MODEL.count() / 1e6:.1f} M parameters", "one batch in memory"
    rows = (
        row(work, seconds, "torch twin", aim=AIM_TRAINING),
        row("training from tars", {"ours": seconds["from tars"], loader: seconds["ours"]}, loader),
    )
    return [{**found, "threads": torch.get_num_threads()} for found in rows]


def _shards(folder: Path) -> Any:
    """Write token shards of random ids."""
    from dclm.tokendata import MixedTokens
    from dclm.tokenshards import write_manifest, write_shard

    generator = np.random.default_rng(0)
    out = folder / "shards"
    out.mkdir()
    rows = generator.integers(0, MODEL.vocab_size, (512, MODEL.context_length + 1))
    write_manifest(out, {"00000000": write_shard(out / "00000000.tar", rows, 0, 0)})
    return MixedTokens([out])


def _twin(torch: Any, params: Any) -> Callable[..., Any]:
    """Return a function that takes one update on a batch, of a torch model with the same weights."""
    from flax import nnx

    from dclm.convert import to_openlm
    from dclm.modeling_openlm import OpenLMConfig, Transformer

    sizes = {"dim": MODEL.dim, "n_layers": MODEL.num_layers, "n_heads": MODEL.num_heads}
    model = Transformer(OpenLMConfig(**sizes, vocab_size=MODEL.vocab_size, ffn_multiple_of=MODEL.hidden_multiple))
    weights = to_openlm(nnx.to_pure_dict(params), MODEL)
    model.load_state_dict({name: torch.tensor(np.array(value)) for name, value in weights.items()})
    settings = {"betas": (CONFIG.beta1, CONFIG.beta2), "eps": CONFIG.epsilon, "weight_decay": CONFIG.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, **settings)

    def update(batch: np.ndarray, *, step: bool) -> float:
        ids = torch.from_numpy(batch.astype(np.int64))
        logits = model(ids[:, :-1])
        cross = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        if step:
            loss = cross + CONFIG.z_loss * (torch.logsumexp(logits, -1) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
            optimizer.step()
        return float(cross)

    return update


def _conversion(folder: Path, plan: Plan) -> list[Row]:
    """From a folder's safetensors to a model of ours, against reading the arrays alone."""
    import jax
    from flax import nnx
    from safetensors.numpy import load_file

    from dclm.convert import from_pretrained, save_pretrained
    from dclm.openlm import OpenLM

    model = replace(MODEL, dim=512, num_layers=8, num_heads=8)
    save_pretrained(nnx.state(OpenLM(model, rngs=nnx.Rngs(0))), model, folder / "model")
    megabytes = (folder / "model" / "model.safetensors").stat().st_size / 2**20

    def convert() -> None:
        jax.block_until_ready(nnx.state(from_pretrained(folder / "model")))

    peer = "safetensors alone"
    calls = {"ours": convert, peer: lambda: load_file(folder / "model" / "model.safetensors")}
    seconds = interleave(calls, plan.rounds, clock=time.perf_counter)
    return [comparison("conversion of OpenLM's weights to a model", seconds, peer, "MB per s", amount=megabytes)]
