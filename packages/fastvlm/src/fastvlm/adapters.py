"""Low-rank adapters (LoRA) of the language model, by peft (extra `lora`), tied to the base they were trained on."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import write_json
from torch import nn

from fastvlm.checkpoint import load_exactly
from fastvlm.model import FastVLM
from fastvlm.recipes import TrainConfig

BASE = "base.json"
PROJECTOR = "projector.safetensors"
VALUES_HASHED = 256  # of each tensor: enough to tell two bases apart, and quick


def add_adapters(model: FastVLM, config: TrainConfig) -> None:
    """Freeze the language model and put adapters beside every linear layer but the output.

    Args:
        model: Changed in place.
        config: Rank, scale and dropout.

    Raises:
        ImportError: peft is not installed.
    """
    peft = require_extra("peft", "lora", "fastvlm")
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft asks transformers by names that are going away
        warnings.simplefilter("ignore", FutureWarning)
        model.language_model = peft.get_peft_model(model.language_model, settings)


def fingerprint(model: FastVLM) -> str:
    """Return a short hash of a model without adapters: names, shapes and some values of the language model."""
    digest = hashlib.sha256()
    for name, value in sorted(model.language_model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.flatten()[:VALUES_HASHED].detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_adapter(model: FastVLM, folder: Path, *, base: str, base_fingerprint: str) -> None:
    """Write peft's adapter files, the projector, and which base they belong to.

    Args:
        model: With adapters.
        folder: Made if missing.
        base: Where the base came from, for people.
        base_fingerprint: Of the base before training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.language_model.save_pretrained(folder, save_embedding_layers=False)
    save_file({k: v.detach().cpu().contiguous() for k, v in model.projector.state_dict().items()}, folder / PROJECTOR)
    write_json(folder / BASE, {"base": base, "fingerprint": base_fingerprint})


def load_adapter(model: FastVLM, folder: str | Path) -> FastVLM:
    """Merge a trained adapter into its base.

    Args:
        model: The base, changed in place.
        folder: What a training run with `lora_rank` wrote as `adapter/`.

    Returns:
        The same model, with the adapter in its weights.

    Raises:
        FileNotFoundError: The folder holds no adapter.
        InputError: The adapter belongs to another base.
    """
    folder = Path(folder)
    facts = _read_base(folder)
    if (found := fingerprint(model)) != facts["fingerprint"]:
        raise InputError(
            f"wrong base for the adapter in {folder}: it was trained on {facts['base']} "
            f"(fingerprint {facts['fingerprint']}), this model has {found}."
        )
    peft = require_extra("peft", "lora", "fastvlm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.language_model = merge(peft.PeftModel.from_pretrained(model.language_model, folder))
    load_exactly(model.projector, load_file(folder / PROJECTOR), origin=f"the projector in {folder}")
    return model.eval()


def merge(language_model: nn.Module) -> Any:
    """Return the language model with its adapters added to its weights."""
    return language_model.merge_and_unload()


def _read_base(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / BASE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no adapter in {folder}; expected {BASE} of a run with --lora-rank.") from error
