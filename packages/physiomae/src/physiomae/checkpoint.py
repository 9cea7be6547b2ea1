"""Models as `config.json` and `model.safetensors`, and the state of a training run."""

from __future__ import annotations

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
from torch import Tensor

from physiomae.config import PhysioMAEConfig
from physiomae.model import PhysioMAE

MAX_LISTED = 4
CHECKPOINT = "checkpoint.safetensors"


def save_pretrained(model: PhysioMAE, folder: str | Path) -> None:
    """Write a model for `from_pretrained`.

    Args:
        model: Any model.
        folder: Made if missing; files are replaced one by one, each atomically.
    """
    folder = Path(folder)
    with atomic_write(folder / "model.safetensors") as file:
        file.write(to_bytes(_plain(model.state_dict()), metadata={"format": "pt"}))
    write_json(folder / "config.json", {"model": plain_json(model.config.to_dict()), "late_fusion": model.late_fusion})


def from_pretrained(folder: str | Path) -> PhysioMAE:
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
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"no config.json in {folder}; `physiomae train` and `save_pretrained` write such a folder."
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        model = PhysioMAE(PhysioMAEConfig.from_dict(record["model"]), late_fusion=record["late_fusion"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no configuration of a PhysioMAE: {error}.") from error
    load_state(model, read_tensors(folder / "model.safetensors"), str(folder))
    return model.eval()


def load_state(model: PhysioMAE, state: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors into a model; any that is missing, unknown or of another shape is an InputError with counts."""
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
        raise FileNotFoundError(f"no {path.name} in {path.parent}; `physiomae train` writes it.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); copy or train it again.") from error


def save(out: Path, run: Any, step: int) -> None:
    """Write the state of a run after `step` steps as one file, whole at every moment: weights, moments, loss scale."""
    tensors = {f"model.{name}": value for name, value in run.objective.model.state_dict().items()}
    state = run.optimiser.state_dict()["state"]
    for place, values in state.items():
        tensors |= {f"optimiser.{place}.{name}": torch.as_tensor(value) for name, value in values.items()}
    described = {"step": str(step), "settings": _settings(run), "scaler": json.dumps(run.scaler.state_dict())}
    with atomic_write(out / CHECKPOINT) as file:
        file.write(to_bytes(_plain(tensors), metadata=described))


def start(out: Path, run: Any, *, resume: bool) -> int:
    """Load the last checkpoint of a folder, if there is one, and return the number of steps that are done.

    Raises:
        InputError: A checkpoint is there and `resume` is off, or it was made with other settings.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    if not resume:
        raise InputError(f"{out} holds a run already; leave out --no-resume, or choose another --out.")
    tensors = read_tensors(path)
    described = _metadata(path)
    if described["settings"] != _settings(run):
        raise InputError(f"{out} holds a run with other settings; choose another --out.")
    model = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    load_state(run.objective.model, model, str(path))
    _load_optimiser(run.optimiser, tensors)
    if scaler := json.loads(described["scaler"]):
        run.scaler.load_state_dict(scaler)
    return int(described["step"])


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, place, name = key.split(".")
            state.setdefault(int(place), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _settings(run: Any) -> str:
    """Everything that decides what a step does, as text to compare."""
    model = run.objective.model
    train = {key: value for key, value in run.config.to_dict().items() if key != "checkpoint_every"}
    return json.dumps([plain_json(model.config.to_dict()), plain_json(train)], sort_keys=True)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().contiguous().cpu() for key, value in state.items()}
