"""Static evaluation sets in clip_benchmark's webdataset layout: zero-shot classification and retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError

from ticclip.config import CLIPConfig
from ticclip.data import decode, encode_texts
from ticclip.evaluate import Encoder
from ticclip.readers import read_samples

CUTS = (1, 5, 10)


def find_sets(folder: Path) -> dict[str, Path]:
    """Return the evaluation sets below a folder by their relative names.

    Raises:
        InputError: There is none.
    """
    found = {
        str(path.parent.parent.relative_to(folder)): path.parent.parent for path in folder.rglob("test/nshards.txt")
    }
    if not found:
        raise InputError(f"no evaluation set in {folder}: expected NAME/test/nshards.txt and NAME/test/0.tar.")
    return dict(sorted(found.items()))


def evaluate_sets(encoder: Encoder, config: CLIPConfig, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield `key` and `metrics` of every set below a folder, as the authors' `eval_results.jsonl` has them.

    Retrieval: recall at 1, 5 and 10 both ways and `mean_recall@1`, over the whole set; classification: `acc1`, `acc5`
    and `mean_per_class_recall`.

    Args:
        encoder: The model.
        config: Its sizes.
        folder: Sets in clip_benchmark's layout, at any depth.
    """
    for name, path in find_sets(folder).items():
        samples = [sample for shard in sorted((path / "test").glob("*.tar")) for sample in read_samples(shard)]
        pictures = np.stack([decode(sample.image, config.vision.image_size) for sample in samples])
        image = encoder.images(pictures)
        if (path / "classnames.txt").exists():
            prompts = class_prompts(encoder, config, path)
            metrics = classify(image, prompts, np.array([int(sample.label) for sample in samples]))
        else:
            captions = [sample.caption.strip().split("\n") for sample in samples]
            owners = np.repeat(np.arange(len(samples)), [len(own) for own in captions])
            text = encoder.texts(encode_texts([text for own in captions for text in own], config))
            metrics = retrieve(image, text, owners)
        yield {"key": name, "metrics": metrics}


def class_prompts(encoder: Encoder, config: CLIPConfig, path: Path) -> np.ndarray:
    """Return one unit vector for each class: the mean over the set's templates [classes, embed]."""
    names = (path / "classnames.txt").read_text().splitlines()
    file = path / "zeroshot_classification_templates.txt"
    templates = file.read_text().splitlines() if file.exists() else ["a photo of a {c}."]
    total = np.zeros((len(names), 1))
    for template in templates:
        texts = [template.replace("{c}", name) for name in names]
        total = total + encoder.texts(encode_texts(texts, config))
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def classify(image: np.ndarray, prompts: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return top-1 and top-5 accuracy and the mean of the classes' recalls."""
    order = np.argsort(-(image @ prompts.T), axis=1, kind="stable")[:, :5]
    hits = order == labels[:, None]
    recalls = [hits[labels == label, 0].mean() for label in np.unique(labels)]
    return {
        "acc1": float(hits[:, 0].mean()),
        "acc5": float(hits.any(axis=1).mean()),
        "mean_per_class_recall": float(np.mean(recalls)),
    }


def retrieve(image: np.ndarray, text: np.ndarray, owners: np.ndarray) -> dict[str, float]:
    """Return recall at 1, 5 and 10 of captions for pictures and of pictures for captions; a tie is no hit.

    Args:
        image: Unit vectors of pictures [n, embed].
        text: Of captions [m, embed], at least one for each picture.
        owners: Picture of each caption [m]; any of a picture's captions is a hit.
    """
    similarity = image @ text.T
    mine = owners[None, :] == np.arange(len(image))[:, None]
    best = np.where(mine, similarity, -np.inf).max(axis=1)
    own = similarity[owners, np.arange(len(text))]
    ranks = {
        "text": (~mine & (similarity >= best[:, None])).sum(axis=1),
        "image": (~mine & (similarity >= own[None, :])).sum(axis=0),
    }
    found = {f"{kind}_retrieval_recall@{k}": float((rank < k).mean()) for kind, rank in ranks.items() for k in CUTS}
    found["mean_recall@1"] = (found["text_retrieval_recall@1"] + found["image_retrieval_recall@1"]) / 2
    return found
