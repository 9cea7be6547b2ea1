"""Reference JSONs in the authors' layout: data sets, models and evaluations that name each other by uuid.

Every record gets a fresh uuid and the time of its making; in the reference, two records made in one process share them.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError
from tenfold_shared.environment import git_commit
from tenfold_shared.files import write_json

from dclm.scales import TrainConfig

__all__ = ["dataset_record", "evaluation_record", "model_record", "read_reference", "write_record"]

TRACK = "filtering"  # choose from a pool; the other one, "mixing", may bring data of its own
DATE = "%Y_%m_%d-%H_%M_%S"


def _base(name: str) -> dict[str, Any]:
    return {"uuid": str(uuid.uuid4()), "name": name, "creation_date": time.strftime(DATE)}


def dataset_record(
    name: str,
    url: str,
    *,
    sources: Sequence[Mapping[str, str]] = (),
    tokens: Mapping[str, Any] | None = None,
    data_key: str = "jsonl.gz",
) -> dict[str, Any]:
    """Return the record of a data set.

    Args:
        name: Of the data set.
        url: Where its files are.
        sources: `uuid` and `name` of what it was made from.
        tokens: What `tokens.json` holds, for a tokenized set.
        data_key: Suffix of its documents.
    """
    size = sum(path.stat().st_size for path in Path(url).rglob("*") if path.is_file()) if Path(url).is_dir() else None
    fields = {
        "dataset_url": url,
        "manifest_url": None if tokens is None else f"{url}/manifest.jsonl",
        "sources": [dict(source) for source in sources],
        "tokenized": tokens is not None,
        "tokenizer": None if tokens is None else tokens["plan"]["tokenizer"],
        "num_tokens": None if tokens is None else tokens["num_tokens"],
        "size": size,
        "dcnlp_commit_hash": git_commit(),
        "dcnlp_diff": None,
        "data_key": data_key if tokens is None else "json.gz",
        "sampling_yaml": None if tokens is None else tokens["plan"]["sources"] or None,
    }
    return {**_base(name), **fields}


def model_record(name: str, dataset: Mapping[str, Any], config: TrainConfig, folder: str, scale: str) -> dict[str, Any]:
    """Return the record of a trained model.

    Args:
        name: Of the model.
        dataset: Record of its training set.
        config: Of the run.
        folder: Its checkpoint.
        scale: Such as 1b-1x.
    """
    model = config.model
    settings = {
        "model": f"d={model.dim}_l={model.num_layers}_h={model.num_heads}",
        "tokens": config.num_tokens,
        "warmup": config.warmup_steps,
        "lr": config.learning_rate,
        "wd": config.weight_decay,
        "cd": config.cooldown_rate,
        "global_bs": config.batch_size,
        "acc": config.accumulation,
        "qk_norm": True,
        "z_loss": config.z_loss,
        "grad_clip": config.clip,
        "precision": config.precision,
        "norm": "gain_only_lp_layer_norm",
        "seed": config.seed,
        "vocab_size": model.vocab_size,
        "seq_len": model.context_length,
    }
    links = {"dataset_name": dataset["name"], "dataset_uuid": dataset["uuid"]}
    rest = {"checkpoint_url": folder, "open_lm_version": None, "open_lm_args": [], "results": [], "params_url": None}
    fields = {**links, "hyperparameters": settings, **rest, "scale": scale, "failed": False, "error": None}
    return {**_base(name), **fields}


def evaluation_record(model: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an evaluation, with the averages of both versions, as `dclm leaderboard` reads it.

    Args:
        model: Its record (or `name` and `uuid`).
        found: What `evaluate` returned.
    """
    from dclm.scores import aggregate

    scores = {version: aggregate(found["icl"], version) for version in ("v1", "v2")}
    current = scores["v2"]
    averages: dict[str, Any] = {}
    for version, score in scores.items():
        averages[f"Core_{version}"] = _or_missing(score["core"], score["missing_core"])
        averages[f"Extended_{version}"] = _or_missing(score["extended"], score["missing"])
    averages |= {"Core": averages["Core_v2"], "Extended": averages["Extended_v2"]}
    metrics = {"icl": found["icl"], "standard_errors": found["standard_errors"], "num_items": found["num_items"]}
    fields = {
        "model": model["name"],
        "model_uuid": model["uuid"],
        "scale": model.get("scale", ""),
        "track": model.get("track", TRACK),
        "eval_metrics": metrics | ({"perplexity": found["perplexity"]} if "perplexity" in found else {}),
        "missing tasks": current["missing"],
        "aggregated_task_categories_centered": current["categories"],
        "low_variance_datasets_centered": averages["Core"],
        "aggregated_centered_results": averages["Extended"],
        **averages,
        "eval_version": "v2",
        "seed": found["seed"],
        "tokenizer": found["tokenizer"],
        "versions": found["versions"],
    }
    return {**_base(model["name"]), **fields}


def _or_missing(value: float | None, missing: Sequence[str]) -> float | str:
    """Write an average that does not exist as the authors do."""
    return f"N/A due to missing tasks: {list(missing)}" if value is None else value


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record."""
    write_json(path, dict(record))


def read_reference(path: str | Path) -> dict[str, Any]:
    """Read a data set's or a model's record.

    Raises:
        InputError: No JSON, or no uuid.
    """
    try:
        record = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no record ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("uuid"), str) or not record["uuid"]:
        raise InputError(f"{path} has no `uuid`, by which records are joined.")
    return record
