"""Base models, their tokenizers and adapters, with checks that they belong together."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import write_json

from muscle.config import LoraSettings
from muscle.records import DIST

BASE_FILE = "muscle_base.json"  # beside an adapter: which weights it was trained on
SAMPLED = 256  # values of each tensor that enter a fingerprint


def load_model(name: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Any:
    """Return a frozen causal language model of a local folder or, with a network, of the hub.

    Raises:
        InputError: Neither a folder with a model nor a name that can be loaded.
    """
    transformers = require_extra("transformers", "train", DIST)
    transformers.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(str(name), dtype=dtype or torch.float32)
    except (OSError, ValueError) as error:
        raise InputError(f"no causal language model at {name}: {str(error).splitlines()[0]}") from error
    return model.requires_grad_(False).eval().to(device)


def load_tokenizer(name: str | Path) -> Any:
    """Return the tokenizer of a model's folder, padding with its end token where it has no other."""
    transformers = require_extra("transformers", "train", DIST)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer at {name}: {str(error).splitlines()[0]}") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer at {name} has no end token; set `eos_token`.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_same_vocabulary(old: Any, new: Any) -> None:
    """Refuse two tokenizers that do not give every id the same token: distributions over tokens need that.

    The paper measures flips across such updates too, but trains none of them (section 6).

    Raises:
        InputError: What differs.
    """
    first, second = old.get_vocab(), new.get_vocab()
    if first == second:
        return
    other = sorted((i, token) for token, i in first.items() if second.get(token) != i)
    said = f"; the first that differs is {other[0][1]!r} (id {other[0][0]})" if other else ""
    raise InputError(
        f"different vocabularies: {len(first)} tokens in the old model, {len(second)} in the new{said}. "
        "`muscle compare` still measures this update; a compatibility adapter cannot be trained for it."
    )


def fingerprint(model: Any) -> str:
    """Return a short hash of a base's weights: names, shapes and a sample of the values of each tensor.

    Adapters do not enter, so that a base has one fingerprint with and without them.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if "lora_" in name:
            continue
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLED)].float().cpu().numpy()
        digest.update(f"{plain} {tuple(value.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:32]


def adapter_fingerprint(model: Any) -> str:
    """Return a short hash of a model's adapter weights; of none it is the hash of nothing."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if "lora_" in name:
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def add_adapter(model: Any, lora: LoraSettings, seed: int) -> Any:
    """Return the model with a fresh trainable adapter (peft), the base frozen."""
    peft = require_extra("peft", "train", DIST)
    torch.manual_seed(seed)
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with _without_peft_notice():
        return peft.get_peft_model(model, config)


@contextmanager
def _without_peft_notice() -> Generator[None]:
    """Keep quiet about an attribute that peft reads and transformers 5.23 renamed; nothing that a user could mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def load_adapter(model: Any, path: str | Path, *, trainable: bool = False) -> Any:
    """Return the model with a saved adapter.

    Raises:
        InputError: No adapter there, or one that was trained on another base.
    """
    peft = require_extra("peft", "train", DIST)
    folder = Path(path)
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"no adapter at {folder}; make one with `muscle adapt`.")
    if (folder / BASE_FILE).is_file():
        base = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))["fingerprint"]
        if base != fingerprint(model):
            raise InputError(f"the adapter at {folder} was trained on another base ({base[:8]}) than this model "
                             f"({fingerprint(model)[:8]}).")  # fmt: skip
    try:
        with _without_peft_notice():
            return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError) as error:
        first = " ".join(str(error).split())[:120]
        raise InputError(f"the adapter at {folder} does not fit this base: {first}") from error


def save_adapter(model: Any, path: str | Path) -> None:
    """Write a model's adapter and, beside it, which base it belongs to."""
    model.save_pretrained(str(path))
    write_json(Path(path) / BASE_FILE, {"fingerprint": fingerprint(model)})
