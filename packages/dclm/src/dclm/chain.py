"""From raw pages to a score and a leaderboard page: data, tokens, training, evaluation, records; each stage resumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json

from dclm.config import Recipe
from dclm.engines import RunOptions
from dclm.icl import find_tasks, read_task
from dclm.leaderboard import leaderboard_rows, render_leaderboard
from dclm.pipeline import run
from dclm.records import dataset_record, evaluation_record, model_record, read_reference, write_record
from dclm.scales import TrainConfig
from dclm.storage import find_inputs
from dclm.tasks import TASKS

__all__ = ["Chain", "run_chain", "sample_tasks"]

logger = logging.getLogger(__name__)
VOCAB_MULTIPLE = 256


@dataclass(frozen=True)
class Chain:
    """What follows a recipe.

    Args:
        name: Of the data set and the model.
        recipe: Stages of the data.
        scale: Name of `config`, for the records.
        config: Model and training; its vocabulary becomes the tokenizer's, rounded up to a multiple of 256.
        tokenizer: See `load_tokenizer`.
        tasks: Folder of task files; None takes the two inside this package.
        repeat: Let data be gone through more than once.
        seed: Of the few-shot examples.
    """

    name: str
    recipe: Recipe
    scale: str
    config: TrainConfig
    tokenizer: str = "gpt2"
    tasks: Path | None = None
    repeat: bool = False
    seed: int = 1234


def sample_tasks() -> Path:
    """Return the folder of the two task files inside this package: copa and winograd."""
    return Path(str(resources.files("dclm").joinpath("data", "icl")))


def run_chain(
    inputs: Sequence[str], chain: Chain, *, out: str | Path, options: RunOptions = RunOptions()
) -> dict[str, Any]:
    """Run a recipe, tokenize, train, evaluate, and write records and a leaderboard page.

    Args:
        inputs: Pages or documents.
        chain: Recipe, model, tokenizer, tasks.
        out: Local folder: `data/`, `tokens/`, `train/`, `records/`, `leaderboard.html`.
        options: Engine of the data steps; `resume` goes on at the stage, and inside it, where a run was stopped.

    Returns:
        `documents`, `tokens`, `loss`, `core`, `accuracies`, `record`, `page`.

    Raises:
        InputError: Bad input of any stage, or a folder of another chain.
    """
    out = Path(out)
    chain = replace(chain, config=with_vocabulary(chain.config, chain.tokenizer))
    _check(inputs, chain)
    _prepare(out, chain, options)
    options = replace(options, resume=True)
    made = run(inputs, chain.recipe, out=out / "data", options=options)
    raw = _record(out, "dataset_raw", lambda: dataset_record(f"{chain.name}-documents", str(out / "data")))
    logger.info("%s documents; tokenizing with %s", f"{made['num_documents']:,}", chain.tokenizer)
    tokens = _tokens(chain, made["documents"], out, options)
    source = [{"uuid": raw["uuid"], "name": raw["name"]}]
    data = _record(
        out, "dataset", lambda: dataset_record(chain.name, str(out / "tokens"), sources=source, tokens=tokens)
    )
    trained = _train(chain, out, options)
    name = f"{chain.name}-{chain.scale}"
    folder = str(out / "train" / "model")
    model = _record(out, "model", lambda: model_record(name, data, chain.config, folder, chain.scale))
    record = _record(out, "evaluation", lambda: _evaluate(chain, out, model, options))
    path = out / "records" / "evaluation.json"
    rows = leaderboard_rows([path])
    with atomic_write(out / "leaderboard.html", "w") as page:
        page.write(render_leaderboard(rows))
    return {
        "documents": made["num_documents"],
        "tokens": tokens["num_tokens"],
        "loss": trained["loss"],
        "core": rows[0]["core"],
        "accuracies": record["eval_metrics"]["icl"],
        "record": str(path),
        "page": str(out / "leaderboard.html"),
    }


def with_vocabulary(config: TrainConfig, tokenizer: str) -> TrainConfig:
    """Return a run whose model has the tokenizer's words, rounded up: GPT-NeoX's and GPT-2's both give 50,432."""
    from dclm.tokenizer import load_tokenizer

    words = -(-load_tokenizer(tokenizer).vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    return replace(config, model=replace(config.model, vocab_size=words))


def _check(inputs: Sequence[str], chain: Chain) -> None:
    """Refuse at once what would be found missing or damaged only after hours."""
    find_inputs(tuple(map(str, inputs)))
    known = {task.name: task for task in TASKS}
    for name, path in find_tasks(chain.tasks or sample_tasks()).items():
        read_task(known[name], path)


def _prepare(out: Path, chain: Chain, options: RunOptions) -> None:
    path = out / "chain.json"
    wanted = {"name": chain.name, "config": chain.config.to_dict(), "tokenizer": chain.tokenizer}
    wanted = json.loads(json.dumps({**wanted, "tasks": str(chain.tasks or ""), "seed": chain.seed}))
    if not path.exists():
        write_json(path, wanted)
    elif not options.resume:
        raise InputError(f"{out} holds a run already; go on with --resume or give another --out.")
    elif json.loads(path.read_text("utf-8")) != wanted:
        raise InputError(f"{out} holds a run of another model, tokenizer or tasks; give another --out.")


def _record(out: Path, name: str, make: Any) -> dict[str, Any]:
    """Make a record once: a resumed chain keeps its uuids."""
    path = out / "records" / f"{name}.json"
    if not path.exists():
        write_record(path, make())
    return read_reference(path)


def _tokens(chain: Chain, documents: Sequence[str], out: Path, options: RunOptions) -> dict[str, Any]:
    from dclm.tokens import TokenOptions, tokenize

    context = chain.config.model.context_length + 1
    return tokenize(documents, out / "tokens", TokenOptions(chain.tokenizer, context), options)


def _train(chain: Chain, out: Path, options: RunOptions) -> dict[str, Any]:
    from dclm.lmrun import LoopOptions, train
    from dclm.mesh import build_mesh
    from dclm.tokendata import MixedTokens

    tokens = MixedTokens([out / "tokens"], seed=chain.config.seed)
    loop = LoopOptions(checkpoint_every=100, allow_repeats=chain.repeat, quiet=options.quiet)
    return train(chain.config, tokens, out / "train", mesh=build_mesh(1), options=loop)


def _evaluate(chain: Chain, out: Path, model: dict[str, Any], options: RunOptions) -> dict[str, Any]:
    from dclm.convert import from_pretrained
    from dclm.lmeval import EvalOptions, evaluate
    from dclm.tokenizer import load_tokenizer

    settings = EvalOptions(chain.seed, quiet=options.quiet)
    folder = chain.tasks or sample_tasks()
    found = evaluate(from_pretrained(out / "train" / "model"), load_tokenizer(chain.tokenizer), folder, settings)
    return evaluation_record(model, found)
