"""The reference decoder and trainer: no leaks, exact resumption, parts and ranks that change nothing."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from dataset_decomposition import PRESETS, TokenStore, tokenize
from dataset_decomposition.checkpoint import from_pretrained, load_state
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.evaluate import evaluate, retrieve_keys, token_losses
from dataset_decomposition.loss import next_token_loss
from dataset_decomposition.model import Decoder
from dataset_decomposition.train import learning_rate, train
from tenfold_shared.commands import InputError

MODEL = ModelConfig(dim=32, num_layers=2, num_heads=2, vocab_size=320)
CONFIG = dataclasses.replace(PRESETS["tiny"], model=MODEL, tokens_per_step=512, lr=1e-2)


@pytest.fixture(scope="module")
def small(corpus, tmp_path_factory):
    return tokenize([corpus], tmp_path_factory.mktemp("small")).decompose(min_length=32, max_length=128)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder(MODEL).eval()


def test_the_future_and_other_documents_change_nothing(decoder):
    ids = torch.randint(0, 300, (1, 24))
    segments = torch.tensor([[0] * 10 + [1] * 14])
    with torch.no_grad():
        packed = decoder(ids, segments)
        alone = decoder(ids[:, 10:])
        changed = ids.clone()
        changed[:, :10] = (changed[:, :10] + 7) % 300
        assert torch.allclose(packed[:, 10:], alone, atol=1e-5), "a packed document is as if alone"
        assert torch.equal(decoder(changed, segments)[:, 10:], packed[:, 10:])
        assert not torch.allclose(decoder(changed)[:, 10:], decoder(ids)[:, 10:], atol=1e-4), (
            "without the mask it leaks"
        )
        changed = ids.clone()
        changed[:, 20:] = 0
        assert torch.allclose(decoder(changed)[:, :20], decoder(ids)[:, :20], atol=1e-5)


def test_the_rope_base_moves_positions(decoder):
    other = Decoder(dataclasses.replace(MODEL, rope_base=100.0)).eval()
    other.load_state_dict(decoder.state_dict())
    ids = torch.randint(0, 300, (1, 24))
    with torch.no_grad():
        assert not torch.allclose(decoder(ids), other(ids), atol=1e-4)


def test_parameters_are_those_of_the_configuration(decoder):
    assert sum(p.numel() for p in decoder.parameters()) == MODEL.num_params


def test_loss_by_hand():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1 / 3] * 3]])) + 2.0
    labels = torch.tensor([[0, -100, 2]])
    total, entropy = next_token_loss(logits, labels, z_loss=0.1)
    assert entropy.item() == pytest.approx(np.log(2) + np.log(3), rel=1e-5)
    assert total.item() == pytest.approx(np.log(2) + np.log(3) + 0.1 * (2.0**2 + 2.0**2), rel=1e-5)


def test_learning_rate_warms_up_and_falls():
    rates = [learning_rate(step, 1000, CONFIG) for step in range(1000)]
    assert rates[19] == pytest.approx(CONFIG.lr) and rates[0] == pytest.approx(CONFIG.lr / 20)
    assert rates[-1] == pytest.approx(CONFIG.min_lr, rel=0.01) and rates[20:] == sorted(rates[20:], reverse=True)


def test_training_learns_and_resumes_exactly(small, tmp_path):
    whole = train(small, CONFIG, tmp_path / "whole", max_steps=40)
    assert whole["loss"] < 4.5 < np.log(320)
    train(small, CONFIG, tmp_path / "parts", max_steps=7)
    parts = train(small, CONFIG, tmp_path / "parts", max_steps=40)
    assert parts["loss"] == whole["loss"]
    first, second = (from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, int(whole["steps"]) + 1))


def test_parts_of_a_step_change_nothing(small, tmp_path):
    losses = [
        train(small, dataclasses.replace(CONFIG, micro_batch_tokens=tokens), tmp_path / str(tokens), max_steps=5)[
            "loss"
        ]
        for tokens in (0, 128)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_packed_tails_are_trained_with_their_mask(corpus, tmp_path):
    store = tokenize([corpus], tmp_path / "s").decompose(min_length=32, max_length=128, tail="pack")
    assert np.isfinite(train(store, CONFIG, tmp_path / "run", max_steps=12)["loss"])


def test_another_configuration_is_refused(small, tmp_path):
    train(small, CONFIG, tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"other settings \(lr\)"):
        train(small, dataclasses.replace(CONFIG, lr=1e-3), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step \d+, learning rate .*, bucket"):
        train(small, dataclasses.replace(CONFIG, lr=9.9, grad_clip=0, z_loss=1e38), tmp_path)


def test_a_vocabulary_over_the_models_is_refused(small, tmp_path):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, vocab_size=64))
    with pytest.raises(ValueError, match="259 tokens, the model's 64; give --vocab-size 320"):
        train(small, config, tmp_path)


def test_damaged_states_are_refused(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"no")
    with pytest.raises(InputError, match="damaged or no state of a run"):
        load_state(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        from_pretrained(tmp_path)


def test_evaluation_counts_bits_over_bytes(decoder):
    documents = [np.arange(n) % 300 for n in (5, 40, 300)]
    losses = [token_losses(decoder, [document])[0] for document in documents]
    result = evaluate(decoder, documents, [10, 80, 600], short=64)
    bits = sum(loss.sum() for loss in losses) / np.log(2)
    bytes_of_targets = sum(2 * len(loss) for loss in losses)
    assert result["bits_per_byte"] == pytest.approx(bits / bytes_of_targets, rel=1e-5)
    short = sum(loss.sum() for loss in losses[:2]) / np.log(2) / (2 * (4 + 39))
    assert result["bits_per_byte_short"] == pytest.approx(short, rel=1e-5)
    first = sum(loss[:32].sum() for loss in losses) / np.log(2) / (2 * (4 + 32 + 32))
    assert result["bits_per_byte/0-32"] == pytest.approx(first, rel=1e-5)


class Copier(torch.nn.Module):
    """Predicts what followed the current pair of tokens when it last came: what retrieval asks for."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def forward(self, ids):
        logits = torch.zeros(*ids.shape, 320)
        for row, tokens in enumerate(ids.tolist()):
            seen = {}
            for place in range(2, len(tokens)):
                logits[row, place, seen.get(tuple(tokens[place - 2 : place + 1]), 0)] = 1
                seen[tuple(tokens[place - 3 : place])] = tokens[place]
        return logits


def test_retrieval_is_passed_by_a_copier_and_not_by_chance(decoder):
    text = np.random.default_rng(0).integers(0, 300, 4000)
    assert retrieve_keys(Copier(), text, length=128, trials=20, seed=0) > 0.9
    assert retrieve_keys(decoder, text, length=128, trials=20, seed=0) < 0.1


TWO = """
import dataclasses, json, sys
import torch
torch.set_num_threads(1)
from dataset_decomposition import PRESETS, TokenStore
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.train import train
model = ModelConfig(dim=32, num_layers=2, num_heads=2, vocab_size=320)
config = dataclasses.replace(PRESETS["tiny"], model=model, tokens_per_step=512, lr=1e-2)
train(TokenStore(sys.argv[1]), config, sys.argv[2], parallel=sys.argv[3], max_steps=int(sys.argv[4]))
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one(small, tmp_path, parallel):
    """Also resumed: two processes go on from what one process saved."""
    (tmp_path / "two.py").write_text(TWO)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train(TokenStore(small.path), CONFIG, tmp_path / "one", max_steps=8)
    train(TokenStore(small.path), CONFIG, tmp_path / "two", max_steps=4)
    command = [*torchrun, tmp_path / "two.py", small.path, tmp_path / "two", parallel, "8"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one, two = (
        [json.loads(line)["train/loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    difference = max(abs(a - b) / a for a, b in zip(one, two, strict=True))
    print(f"largest relative difference of two processes to one: {difference:.1e}")
    assert difference < 1e-4
    assert abs(one[4] - one[5]) / one[4] > 1e-3, "steps differ by more than the tolerance"
