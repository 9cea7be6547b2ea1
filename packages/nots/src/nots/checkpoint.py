"""Models as `config.json` and `model.safetensors`, every tensor accounted for, and the state of a training run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, plain_json, write_json
from torch import Tensor, nn

from nots.config import NoTSConfig
from nots.model import NoTS

MAX_LISTED = 4
CHECKPOINT = "checkpoint.safetensors"


def save_pretrained(model: NoTS, folder: str | Path) -> None:
    """Write a model for `from_pretrained`.

    Args:
        model: Any model.
        folder: Made if missing; files are replaced one by one, each atomically.
    """
    folder = Path(folder)
    write_tensors(folder / "model.safetensors", model.state_dict(), {"format": "pt"})
    write_json(folder / "config.json", {"model": plain_json(model.config.to_dict())})


def from_pretrained(folder: str | Path) -> NoTS:
    """Read a model of `save_pretrained`, every tensor accounted for.

    Args:
        folder: With `config.json` and `model.safetensors`.

    Returns:
        The model in evaluation mode on the CPU.

    Raises:
        FileNotFoundError: A file is missing.
        InputError: A file is damaged, or weights and configuration disagree; the counts are named.
    """
    folder = Path(folder)
    record = read_config(folder)
    try:
        model = NoTS(NoTSConfig.from_dict(record["model"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'config.json'} is no configuration of a NoTS model: {error}.") from error
    load_state(model, read_tensors(folder / "model.safetensors"), str(folder))
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's `config.json`."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"no config.json in {folder}; `nots pretrain` and `save_pretrained` write such a folder."
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}).") from error
    if not isinstance(record, dict):
        raise InputError(f"{file} holds no settings.")
    return record


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors into a module; any that is missing, unknown or of another shape is an InputError with counts."""
    expected = model.state_dict()
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    wrong = {key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape}
    if missing or unknown or wrong:
        matched = len(expected) - len(missing) - len(wrong)
        names = ", ".join(sorted(missing | unknown | wrong)[:MAX_LISTED])
        raise InputError(
            f"{origin}: {matched} of {len(expected)} tensors match ({len(missing)} missing, {len(unknown)} unknown, "
            f"{len(wrong)} of another shape: {names})."
        )
    model.load_state_dict(dict(state))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; one that is damaged is an InputError."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; `nots pretrain` writes it.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); copy or train it again.") from error


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as one safetensors file, whole at every moment."""
    plain = {key: value.detach().contiguous().cpu() for key, value in state.items()}
    with atomic_write(path) as file:
        file.write(to_bytes(plain, metadata=dict(metadata)))


def save(out: Path, run: Any, step: int) -> None:
    """Write the state of a run after `step` steps as one file: weights and moments."""
    tensors = {f"model.{name}": value for name, value in run.objective.state_dict().items()}
    for place, values in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{place}.{name}": torch.as_tensor(value) for name, value in values.items()}
    write_tensors(out / CHECKPOINT, tensors, {"step": str(step), "settings": _settings(run)})


def start(out: Path, run: Any, *, resume: bool) -> int:
    """Load the last checkpoint of a folder, if there is one, and return the number of steps that are done.

    Raises:
        InputError: A checkpoint is there and `resume` is off, or it was made with other settings or series.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    if not resume:
        raise InputError(f"{out} holds a run already; leave out --no-resume, or choose another --out.")
    tensors = read_tensors(path)
    with safe_open(path, "pt") as file:
        described = file.metadata()
    if described["settings"] != _settings(run):
        raise InputError(f"{out} holds a run with other settings or series; choose another --out.")
    model = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    load_state(run.objective, model, str(path))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, place, name = key.split(".")
            state.setdefault(int(place), {})[name] = value
    run.optimiser.load_state_dict({"state": state, "param_groups": run.optimiser.state_dict()["param_groups"]})
    return int(described["step"])


def _settings(run: Any) -> str:
    """Everything that decides what a step does, as text to compare; of the series their digest."""
    model = run.objective.model
    train = {key: value for key, value in run.config.to_dict().items() if key != "checkpoint_every"}
    digest = hashlib.sha256(run.series.numpy().tobytes()).hexdigest()[:16]
    return json.dumps([plain_json(model.config.to_dict()), plain_json(train), digest], sort_keys=True)
