"""Stages on disk: what each was asked for, what it made, what it cost; each can be replaced by another of its kind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import plain_json, write_json

from vfm_transfer.checkpoint import from_pretrained, save_pretrained, weights_digest
from vfm_transfer.images import Images, Labelled
from vfm_transfer.ledger import Ledger
from vfm_transfer.networks import Network
from vfm_transfer.stages import StageResult


@dataclass(frozen=True)
class Artefact:
    """A finished stage.

    Attributes:
        folder: Where the network is.
        ledger: What the stage cost; nothing for a network that came from elsewhere.
    """

    folder: Path
    ledger: Ledger

    def load(self, device: torch.device) -> Network:
        """Load its network."""
        return from_pretrained(self.folder).to(device)


def make_stage(folder: Path, request: dict[str, Any], make: Callable[[Path], StageResult]) -> Artefact:
    """Return a finished stage, go on with a stopped one, or begin it.

    Args:
        folder: Of the stage; `stage.json` is written last, `work` holds the state until then.
        request: What the stage depends on: settings, and digests of what goes in.
        make: Does the work, with the folder for its state.

    Raises:
        InputError: The folder holds a stage of another request.
    """
    request = plain_json(request)
    check_request(folder, request)
    if (found := read_stage(folder)) is not None:
        return found
    work = folder / "work"
    write_json(work / "request.json", request)
    result = make(work)
    save_pretrained(result.network, folder)
    facts = {"request": request, "weights": weights_digest(folder), "flops": result.ledger.flops}
    write_json(folder / "stage.json", facts)
    shutil.rmtree(work)
    return Artefact(folder, result.ledger)


def check_request(folder: Path, request: dict[str, Any]) -> None:
    """Refuse a folder whose stage, finished or stopped, was asked for otherwise; the first difference is named."""
    request = plain_json(request)
    for path, key in ((folder / "stage.json", "request"), (folder / "work" / "request.json", None)):
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8"))
            known = known[key] if key else known
            if changed := [name for name in request if known.get(name) != request[name]]:
                name = changed[0]
                raise InputError(
                    f"{folder}: made with another {name} ({_short(known.get(name))}, now {_short(request[name])}); "
                    "use another --out, or remove this folder."
                )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_stage(folder: Path) -> Artefact | None:
    """Return a finished stage; None where it is not."""
    path = folder / "stage.json"
    if not path.is_file():
        return None
    return Artefact(folder, Ledger(json.loads(path.read_text(encoding="utf-8"))["flops"]))


def replacement(folder: Path) -> Artefact:
    """Take a network from elsewhere in a stage's place; its cost is that in its own `stage.json`, where it has one."""
    if not (folder / "network.json").is_file():
        raise InputError(f"{folder}: no network here (network.json); make one with `vfm-transfer teach` or `distill`.")
    return read_stage(folder) or Artefact(folder, Ledger())


def digest_images(images: Images) -> str:
    """Return a digest of the contents of a set, in their order."""
    return hashlib.sha256("\n".join(images.digests()).encode()).hexdigest()[:16]


def digest_labelled(examples: Labelled) -> str:
    """Return a digest of images, labels and classes."""
    digest = hashlib.sha256(digest_images(examples.images).encode())
    labels = examples.labels
    digest.update(labels.tobytes() if isinstance(labels, np.ndarray) else digest_images(labels).encode())
    digest.update("\n".join(examples.classes).encode())
    return digest.hexdigest()[:16]
