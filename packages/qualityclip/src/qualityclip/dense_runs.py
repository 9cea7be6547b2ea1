"""Dense models in folders, backbones by name, and retrieval of a CLIP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.metrics import recall_at_k

from qualityclip.backbone import Backbone, as_backbone
from qualityclip.checkpoint import from_pretrained
from qualityclip.config import CLIPConfig, DenseConfig, MixConfig, Policy, VisionConfig
from qualityclip.dense import DenseModel
from qualityclip.mixing import mix
from qualityclip.model import CLIP
from qualityclip.quality import Encoder
from qualityclip.readers import Sample

DENSE_FILE = "dense.json"
RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Description:
    """What a backbone was made of: a CLIP's configuration, or the name of a model of timm."""

    clip: CLIPConfig | None = None
    timm_name: str = ""

    @property
    def vision(self) -> VisionConfig:
        """How the tower wants pixels."""
        return self.clip.vision if self.clip else VisionConfig(timm_name=self.timm_name)


def default_taps(head: str, num_layers: int) -> tuple[int, ...]:
    """Return the blocks of a ViT that a head builds on: four in equal distances for UPerNet and DPT, else the last."""
    if head not in ("upernet", "dpt") or num_layers < 4:
        return ()
    return tuple(round(num_layers * share / 4) for share in (1, 2, 3, 4))


def open_backbone(name: str, config: DenseConfig) -> tuple[Backbone, Description]:
    """Return the backbone of a model's folder or file, or of timm:NAME, for a task.

    Raises:
        InputError: No such model, or one without feature maps.
    """
    if name.startswith("timm:"):
        timm = require_extra("timm", "timm", "qualityclip")
        try:
            trunk = timm.create_model(name.removeprefix("timm:"), num_classes=0)
        except RuntimeError as error:
            raise InputError(f"timm has no model {name.removeprefix('timm:')!r}.") from error
        return as_backbone(trunk), Description(timm_name=name.removeprefix("timm:"))
    model = from_pretrained(name)
    return _backbone(model, config), Description(model.config)


def _backbone(model: CLIP, config: DenseConfig) -> Backbone:
    return as_backbone(model, taps=default_taps(config.head, model.config.vision.num_layers))


def save_dense(model: DenseModel, description: Description, folder: Path) -> None:
    """Write a dense model to a folder that `load_dense` reads."""
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    clip = description.clip.to_dict() if description.clip else None
    record = {"dense": model.config.to_dict(), "clip": clip, "timm_name": description.timm_name}
    write_json(folder / DENSE_FILE, record)


def is_dense_run(folder: Path) -> bool:
    """Return whether a folder is one of `save_dense`."""
    return (folder / DENSE_FILE).is_file()


def load_dense(folder: Path) -> tuple[DenseModel, Description]:
    """Read what `save_dense` wrote; an InputError says what is damaged."""
    try:
        record: dict[str, Any] = json.loads((folder / DENSE_FILE).read_text("utf-8"))
        config = DenseConfig(**record["dense"])
        if record["clip"]:
            clip = CLIP(CLIPConfig.from_dict(record["clip"]))
            backbone, description = _backbone(clip, config), Description(clip.config)
        else:
            backbone, description = open_backbone(f"timm:{record['timm_name']}", config)
        model = DenseModel(backbone, config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, OSError) as error:
        raise InputError(f"{folder} is no whole dense run ({error}).") from error
    return model.eval(), description


def evaluate_retrieval(encoder: Encoder, samples: Sequence[Sample], policy: Policy) -> dict[str, float]:
    """Return recall@1, 5 and 10 both ways between pictures and one caption of each; ties are misses.

    Args:
        encoder: Of pictures and texts.
        samples: Captioned pictures.
        policy: Which caption of several, as `mix` chooses it at step 0.
    """
    texts = [mix(s.real, s.synthetic, MixConfig(policy), uid=s.uid) for s in samples]
    images = encoder.encode_images([sample.read_image() for sample in samples])
    features = encoder.encode_texts(texts)
    images, features = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, features))
    similarity, places = images @ features.T, np.arange(len(samples))
    found = {}
    for k in (k for k in RECALLS if k <= len(samples)):
        found[f"image_to_text@{k}"] = recall_at_k(similarity, k, places).compute()
        found[f"text_to_image@{k}"] = recall_at_k(similarity.T, k, places).compute()
    return found
