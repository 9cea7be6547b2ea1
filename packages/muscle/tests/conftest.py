"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"  # models here are so small that a second thread slows them down
os.environ.pop("GITHUB_STEP_SUMMARY", None)

import json
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference():
    return REFERENCE


@pytest.fixture
def write(tmp_path):
    """Write rows as JSON lines below the test's folder and return the path."""

    def write_rows(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write_rows


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Two tiny bases of one vocabulary with their tokenizer, as folders."""
    import torch
    from muscle.corpus import load_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=load_tokenizer(), eos_token="<|end|>", pad_token="<|end|>", model_input_names=["input_ids"]
    )
    folder, config = (
        tmp_path_factory.mktemp("bases"),
        LlamaConfig(
            vocab_size=4096,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            initializer_range=0.5,
        ),
    )
    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def rows():
    """Examples of a task that a tiny model can learn by heart."""
    colours = ["red", "green", "blue", "black"]
    return [{"prompt": f"Colour {i}:", "answer": f" {colours[i % 4]}"} for i in range(20)]
