"""Networks as folders: `network.json` and `model.safetensors`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from torch import Tensor, nn

from vfm_transfer.config import NetworkConfig
from vfm_transfer.networks import Network, build_network

__all__ = ["from_pretrained", "save_pretrained"]


def save_pretrained(network: Network, folder: str | Path) -> None:
    """Write a network; its weights lie in one safetensors file, its name, input and classes beside it.

    Args:
        network: Of any backbone; one that runs elsewhere (ONNX) has only its head in the file.
        folder: Made if missing.
    """
    folder = Path(folder)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as file:
        file.write(save(state))
    write_json(folder / "network.json", network.config.to_dict())


def from_pretrained(folder: str | Path) -> Network:
    """Load the network of `save_pretrained`, in evaluation mode.

    Args:
        folder: Where it is.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: There is none, or it is damaged.
    """
    folder = Path(folder)
    config = read_config(folder)
    network = build_network(config)
    try:
        weights = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}/model.safetensors: not a whole file of weights; make it again.") from error
    _load(network, weights, folder)
    return network.eval()


def _load(network: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    missing, unknown = network.load_state_dict(weights, strict=False)
    if missing or unknown:
        first = (missing or unknown)[0]
        raise InputError(f"{folder}: its weights are of another network than network.json says ({first}).")


def read_config(folder: str | Path) -> NetworkConfig:
    """Read what a saved network is, without its weights."""
    path = Path(folder) / "network.json"
    if not path.is_file():
        raise InputError(f"{folder}: no network here (network.json); make one with `vfm-transfer teach` or `distill`.")
    try:
        return NetworkConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a description of a network ({error}).") from error


def weights_digest(folder: str | Path) -> str:
    """Return a digest of a saved network's weights."""
    return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()[:16]
