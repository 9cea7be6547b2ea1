"""Where a training run begins: a whole model, or a language model and an encoder that have not met."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from fastvlm.checkpoint import find_folder, load_encoder, make_projector, quiet_transformers
from fastvlm.model import FastVLM
from fastvlm.processor import FastVLMProcessor


@dataclass(frozen=True)
class Start:
    """Where a run begins: a model, how its inputs are made, and files that go with it.

    Args:
        model: Its weights are changed.
        processor: With the model's tokenizer.
        folder: Holds the tokenizer's files.
    """

    model: FastVLM
    processor: FastVLMProcessor
    folder: Path

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Start:
        """Begin from a model folder in either layout, or owner/name on the hub."""
        folder = find_folder(source)
        return cls(FastVLM.from_pretrained(folder), FastVLMProcessor.from_pretrained(folder), folder)


def assemble(language_model: str | Path, encoder: str | Path) -> Start:
    """Begin from a language model and an encoder that have not met: the projector between them is new.

    Args:
        language_model: Folder (or hub name) of a causal language model of transformers, with its tokenizer.
        encoder: See `fastvlm.load_encoder`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, tower = find_folder(language_model), load_encoder(encoder)
    with quiet_transformers():
        language = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    projector = make_projector(tower.config.out_dim, language.config.hidden_size)
    processor = FastVLMProcessor(AutoTokenizer.from_pretrained(folder), tower.config.image_size)
    return Start(FastVLM(tower.float(), projector, language), processor, folder)
