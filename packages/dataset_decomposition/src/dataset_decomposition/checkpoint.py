"""Weights as a folder of config.json and model.safetensors, and the whole state of a run to resume from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.model import Decoder

CONFIG, WEIGHTS, STATE = "config.json", "model.safetensors", "state.pt"


def save_pretrained(model: Decoder, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
    """Write `config.json` and `model.safetensors`.

    Args:
        model: Gives the configuration, and the weights unless `state` does.
        folder: Made if need be.
        state: Weights gathered from all ranks.
    """
    weights = {key: value.contiguous().cpu() for key, value in (state or model.state_dict()).items()}
    with atomic_write(Path(folder) / WEIGHTS) as file:
        file.write(save(weights))
    write_json(Path(folder) / CONFIG, model.config.to_dict())


def from_pretrained(folder: str | Path) -> Decoder:
    """Load a model of `save_pretrained`, in evaluation mode.

    Raises:
        FileNotFoundError: Nothing is there.
        InputError: The files are damaged or do not fit together.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; make one: dataset-decomposition train")
    try:
        config = ModelConfig(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        with torch.device("meta"):
            model = Decoder(config)
        model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder} holds no model of this package: {error}") from error
    return model.eval()


def save_state(folder: str | Path, state: dict[str, Any]) -> None:
    """Write the state of a run in one step: the old file or the new one, never half of one."""
    with atomic_write(Path(folder) / STATE) as file:
        torch.save(state, file)


def load_state(folder: str | Path) -> dict[str, Any] | None:
    """Return the state of a run, or None where there is none; nothing in the file is run as code.

    Raises:
        InputError: The file is damaged or holds more than tensors and numbers.
    """
    path = Path(folder) / STATE
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is damaged or no state of a run: {error}") from error
