"""The benchmark's checks, and all of it at its smallest."""

import subprocess

import pytest
import torch
from physiomae import benchmark, peers
from physiomae.config import PRESETS
from tenfold_shared.commands import InputError


def test_the_padding_mask_form_gives_the_same_states(config):
    from physiomae.masking import draw, hide_tokens
    from physiomae.model import PhysioMAE

    torch.manual_seed(0)
    model, batch = PhysioMAE(config), benchmark.make_batch(config, 3, 0)
    available = model.available(batch)
    visible, _ = hide_tokens(available, benchmark.OBJECTIVES["mae"], draw(tuple(available.shape), 0, 0))
    benchmark._check_equal(model, batch, visible)
    with torch.no_grad():
        model.blocks[0].norm1.weight.mul_(2)
    wrong = benchmark.encode_with_mask(model, batch, available)
    assert not torch.allclose(wrong.states[:, 0], model.encode(batch, visible).states[:, 0], atol=1e-3)


def test_memory_is_counted_and_mixing_channels_needs_less():
    rows = benchmark.memory(0)
    assert rows[0]["ratio"] == pytest.approx(1.0, abs=0.01), "one channel: the same model"
    assert rows[2]["ours"] < 0.3 * rows[2]["peer"], "thirteen channels mixed in the stem"
    assert rows[2]["peer"] > 8 * rows[0]["peer"]


@pytest.mark.slow
def test_smoke(tmp_path):
    rows = benchmark.benchmark(tmp_path, budget="smoke", seed=0)
    assert len(rows) == 7
    assert all(row["ratio"] > 0 for row in rows)
    assert not list(tmp_path.iterdir()), "temporary files are gone"
    assert PRESETS["sleep_small"].num_patches == 30


def test_without_uv_the_peer_says_what_is_needed(monkeypatch):
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="needs uv; run: pip install uv"):
        peers.embed_with_biot("2.0.0", 1, 1, 30)


def test_a_peer_that_fails_says_why_in_one_line(monkeypatch):
    monkeypatch.setattr(peers.shutil, "which", lambda name: "uv")
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="first\nno such wheel\n")
    monkeypatch.setattr(peers.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(InputError, match=r"could not be run \(no such wheel\)"):
        peers.embed_with_biot("2.0.0", 1, 1, 30)
