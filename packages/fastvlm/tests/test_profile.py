"""The latency analysis: its arithmetic on times made up for the purpose, and one small run from end to end."""

import csv
import json
import random
import signal
import time
from dataclasses import replace

import fastvlm_process
import numpy as np
import pytest
import torch
from fastvlm import pareto_front
from fastvlm import profile as analysis
from fastvlm import reproduce as experiment
from fastvlm.benchmark import PLANS, _rows
from fastvlm.config import LANGUAGE_MODELS, QWEN2_7B, QWEN2_HALF_B, QWEN2_ONE_HALF_B, VICUNA_7B, LanguageConfig
from fastvlm.peers import ENCODERS, count_siglip_parameters, count_views
from fastvlm.prefill import Prefill, count_flops
from fastvlm.profile import Grid, profile
from hypothesis import given, settings
from hypothesis import strategies as st
from tenfold_shared.claims import read_recorded
from tenfold_shared.commands import InputError

SMALL = LanguageConfig("qwen2", 32, 4, 4, 2, 64, 50)
points = st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(points)
def test_the_frontier_is_what_nothing_beats(values):
    rows = [{"a": a, "b": b, "c": c} for a, b, c in values]
    front = pareto_front(rows, minimize=["a"], maximize=["b", "c"])
    for index, row in enumerate(rows):
        beaten = any(
            other != row and other["a"] <= row["a"] and other["b"] >= row["b"] and other["c"] >= row["c"]
            for other in rows
        )
        assert (index in front) == (not beaten)


def test_a_frontier_over_nothing_is_refused():
    with pytest.raises(ValueError, match="name at least one column"):
        pareto_front([{"a": 1}], minimize=[])


@pytest.mark.parametrize(
    ("config", "billions"), [(QWEN2_HALF_B, 0.494), (QWEN2_ONE_HALF_B, 1.544), (QWEN2_7B, 7.616), (VICUNA_7B, 6.738)]
)
def test_parameters_are_those_of_the_published_models(config, billions):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.to_transformers()))
    assert sum(p.numel() for p in model.parameters()) == config.num_params
    assert config.num_params / 1e9 == pytest.approx(billions, abs=0.001)


def test_shared_layers_compute_what_equal_layers_compute():
    embeds = torch.randn(1, 7, SMALL.dim)
    shared, full = Prefill(SMALL), Prefill(SMALL, shared=False)
    with torch.no_grad():
        layer = shared.model.model.layers[0].state_dict()
        for own in full.model.model.layers:
            own.load_state_dict(layer)
        full.model.lm_head.load_state_dict(shared.model.lm_head.state_dict())
    assert shared(embeds).shape == (1, 1, 50)
    torch.testing.assert_close(shared(embeds), full(embeds))
    one_layer = sum(p.numel() for p in shared.model.model.layers.parameters())
    assert sum(p.numel() for p in full.model.model.layers.parameters()) == 4 * one_layer


def test_time_of_all_layers_follows_from_that_of_a_few():
    assert Prefill(SMALL, 2).extrapolate(5.0, 1.0) == 9.0
    assert Prefill(SMALL).extrapolate(5.0, 1.0) == 5.0
    assert Prefill(SMALL, 2).extrapolate(0.9, 1.0) == 1.0, "noise is no negative time"


def test_operations_of_a_prefill_equal_those_counted():
    from torch.utils.flop_counter import FlopCounterMode

    model = Prefill(SMALL)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 9, SMALL.dim))
    # The formula counts biases and norms as weights too; here they are a few hundred of 44 thousand.
    assert counter.get_total_flops() == pytest.approx(count_flops(SMALL, 9), rel=0.02)


@pytest.mark.parametrize(
    ("name", "size", "tiles", "tokens"),
    [
        ("fastvithd", 256, 1, 16),
        ("fastvithd", 768, 1, 144),
        ("fastvithd", 1024, 1, 256),
        ("fastvithd", 512, 4, 320),
        ("vit_l_14", 336, 1, 576),
        ("convnext_l", 1024, 1, 1024),
        ("siglip_so400m", 384, 9, 7290),
    ],
)
def test_tokens_per_image(name, size, tiles, tokens):
    assert ENCODERS[name].num_tokens(size, tiles) == tokens


def test_sizes_of_the_encoders():
    assert ENCODERS["fastvithd"].count(64)[0] == 122_714_208 - count_folded_norms()
    assert count_siglip_parameters() == 428_225_600


def count_folded_norms() -> int:
    """Folding leaves one bias where a normalisation had weight and bias: one number a channel and block less."""
    return 2 * 96 + 12 * 192 + 24 * 384 + 4 * 768 + 2 * 1536


@pytest.mark.parametrize("name", ["fastvithd", "vit_l_14", "convnext_l", "siglip_so400m"])
def test_encoders_give_the_tokens_that_are_counted(name):
    spec = ENCODERS[name]
    with torch.device("meta"):
        tokens = spec.define(spec.view_size)(torch.empty(1, 3, spec.view_size, spec.view_size))
    count = tokens.shape[1] if tokens.ndim == 3 else tokens.shape[2] * tokens.shape[3]
    assert count - (name == "vit_l_14") == spec.num_tokens(spec.view_size)  # CLIP's class token is not passed on


def fake(monkeypatch):
    """Replace the clock by arithmetic: an encoder takes its pixels, a prefill its tokens, in microseconds."""
    monkeypatch.setattr(
        analysis,
        "_measure_encoder",
        lambda spec, size, rounds: {"seconds": [size**2 / 1e6], "params": 1e6, "flops": 1e9},
    )
    monkeypatch.setattr(
        analysis, "_measure_prefill", lambda c, count, grid: {"seconds": [count / 1e6], "flops": 1e9, "layers": 2}
    )
    monkeypatch.setattr(analysis, "check_sharing", lambda rounds: {"full_ms": 1.0})


GRID = Grid(("fastvithd", "siglip_so400m"), (256, 512), (1, 4), ("qwen2-0.5b", "qwen2-7b"))


def test_time_to_first_token_is_encoder_plus_prefill(monkeypatch, tmp_path):
    fake(monkeypatch)
    result = profile(tmp_path, GRID)
    rows = {(row["encoder"], row["resolution"], row["tiles"], row["llm"]): row for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == 6 * 2
    tiled = rows["fastvithd", 512, 4, "qwen2-7b"]
    assert (tiled["encoder_ms"], tiled["prefill_ms"]) == (round(5 * 512**2 / 1e3, 2), round((5 * 64 + 24) / 1e3, 2))
    assert tiled["ttft_ms"] == pytest.approx(tiled["encoder_ms"] + tiled["prefill_ms"])
    assert not tiled["pareto"] or tiled["effective_resolution"] == 1024
    assert not rows["fastvithd", 256, 4, "qwen2-7b"]["pareto"], "512 px in one piece is as fine and sooner"
    with (tmp_path / "profile.csv").open() as file:
        assert [row["ttft_ms"] for row in csv.DictReader(file)] == [str(row["ttft_ms"]) for row in result["rows"]]
    assert json.loads((tmp_path / "profile.json").read_text())["pareto"] == result["pareto"]
    for name in ("pareto.svg", "ttft.svg"):
        assert "time to first token" in (tmp_path / name).read_text().lower()


def test_a_resumed_profile_measures_only_what_is_missing(monkeypatch, tmp_path):
    fake(monkeypatch)
    expected = profile(tmp_path / "whole", GRID)["rows"]
    profile(tmp_path / "part", replace(GRID, encoders=("fastvithd",)))
    asked = []
    measure = analysis._measure_encoder
    monkeypatch.setattr(
        analysis, "_measure_encoder", lambda spec, *rest: asked.append(spec.name) or measure(spec, *rest)
    )
    assert profile(tmp_path / "part", GRID, resume=True)["rows"] == expected
    assert asked == ["siglip_so400m"]
    profile(tmp_path / "part", GRID)
    assert len(asked) == 4, "without resume everything is measured again"


@pytest.mark.parametrize("seed", range(20))
def test_a_file_that_a_kill_tore_anywhere_goes_on(monkeypatch, tmp_path, seed):
    fake(monkeypatch)
    expected = profile(tmp_path, GRID)["rows"]
    file = tmp_path / analysis.MEASUREMENTS
    content = file.read_bytes()
    cut = random.Random(seed).randrange(len(content))
    file.write_bytes(content[:cut])
    assert profile(tmp_path, GRID, resume=True)["rows"] == expected
    whole = content[:cut].rfind(b"\n") + 1
    assert file.read_bytes()[:whole] == content[:whole], "what was measured before stays as it was"
    assert len(file.read_bytes().splitlines()) == len(content.splitlines())


@pytest.mark.slow
def test_a_profile_killed_after_every_measurement_keeps_what_it_measured(tmp_path):
    expected = fastvlm_process.profile_by_arithmetic(tmp_path / "whole", GRID, 0)
    total = (tmp_path / "whole" / analysis.MEASUREMENTS).read_bytes().count(b"\n")
    file = tmp_path / "killed" / analysis.MEASUREMENTS
    before = b""
    for _ in range(total - 1):
        process = fastvlm_process.call(fastvlm_process.profile_by_arithmetic, tmp_path / "killed", GRID, 0.3)
        whole = before[: before.rfind(b"\n") + 1]
        while process.is_alive() and not (file.exists() and file.read_bytes().count(b"\n") > whole.count(b"\n")):
            time.sleep(0.002)
        process.kill()
        process.join()
        before = file.read_bytes()
        assert process.exitcode == -signal.SIGKILL and before.startswith(whole)
        assert not (tmp_path / "killed" / "profile.json").exists()
    assert fastvlm_process.profile_by_arithmetic(tmp_path / "killed", GRID, 0) == expected
    assert file.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert file.read_bytes() == (tmp_path / "whole" / analysis.MEASUREMENTS).read_bytes()


def test_accuracies_replace_resolution_in_the_frontier(monkeypatch, tmp_path):
    fake(monkeypatch)
    file = tmp_path / "accuracy.csv"
    lines = ["encoder,resolution,tiles,llm,accuracy", "fastvithd,256,1,qwen2-0.5b,70", "fastvithd,512,1,qwen2-0.5b,60"]
    file.write_text("\n".join(lines))
    result = profile(tmp_path / "out", GRID, accuracy=file)
    assert [(row["resolution"], row["accuracy"], row["pareto"]) for row in result["rows"]] == [
        (256, 70.0, True),
        (512, 60.0, False),
    ]
    for text, sentence in (
        ("encoder,tiles\na,1", "needs the columns"),
        (lines[0] + "\nx,1,1,y,3", "none of the measured"),
        (lines[0] + "\nx,1,1,y,good", "no number"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=sentence):
            profile(tmp_path / "out", GRID, accuracy=file, resume=True)


def times(contrast, encoder, prefill):
    """Five rounds in which the peer's parts take `encoder` and `prefill` times as long as ours."""
    noise = np.random.default_rng(0).normal(1, 0.01, 5)
    (ours_enc, ours_llm), (peer_enc, peer_llm) = contrast.ours.parts, contrast.peer.parts
    return {
        ours_enc: noise,
        ours_llm: noise[::-1],
        peer_enc: encoder * noise / contrast.peer.views,
        peer_llm: prefill * noise[::-1],
    }


@pytest.mark.parametrize(
    ("factor", "verdict"), [(3.2, "shown"), (1.5, "direction only"), (1.0, "not shown"), (0.5, "contradicted")]
)
def test_the_verdict_follows_from_the_times(factor, verdict):
    contrast = experiment.CONTRASTS[0]
    made_up = times(contrast, factor, factor)
    if factor == 1.0:
        made_up[contrast.peer.parts[0]] = made_up[contrast.peer.parts[0]][::-1]
    claim = experiment._judge(contrast, times=made_up, budget="laptop", seconds=1.0)
    assert claim.verdict == verdict
    assert claim.ours.mean == pytest.approx(factor, rel=0.03)
    assert experiment._judge(contrast, times=made_up, budget="smoke", seconds=1.0).verdict == "not judged"


def test_views_count_once_each():
    contrast = experiment.CONTRASTS[2]
    claim = experiment._judge(contrast, times=times(contrast, 30.0, 10.0), budget="laptop", seconds=1.0)
    assert claim.ours.mean == pytest.approx(20.0, rel=0.03)
    assert "7290 tokens" in claim.data and "256 tokens" in claim.data


def test_the_setups_are_those_of_the_claims():
    sides = {
        (side.encoder, side.size, side.views, side.image_tokens)
        for c in experiment.CONTRASTS
        for side in (c.ours, c.peer)
    }
    assert sides == {
        ("fastvithd", 768, 1, 144),
        ("fastvithd", 1024, 1, 256),
        ("vit_l_14", 336, 1, 576),
        ("siglip_so400m", 384, 10, 7290),
    }
    assert all(c.ours.language == c.peer.language for c in experiment.CONTRASTS)
    assert count_views(9) == 10


def test_every_claim_of_the_abstract_has_a_row():
    claims = [experiment._size_claim(), *experiment._not_attempted()]
    assert claims[0].verdict == "shown"
    assert claims[0].ours.mean == pytest.approx(3.49, abs=0.01)
    assert {claim.verdict for claim in claims[1:]} == {"not attempted"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_smoke_run_gives_all_rows(tmp_path):
    claims = experiment.measure(tmp_path, budget="smoke", seed=0, parts=("latency",))
    assert len(claims) == 3 + 1 + len(experiment.UNATTEMPTED)
    for name in claims[0].figures:
        assert (tmp_path / name).stat().st_size > 1000
    assert all(claim.ours.mean > 0 for claim in claims[:4])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_profile_runs_from_end_to_end(tmp_path):
    grid = Grid(("fastvithd",), (64, 128), (1,), ("qwen2-0.5b",), text_tokens=4, rounds=1, layers=1)
    result = profile(tmp_path, grid, quiet=True)
    assert [row["image_tokens"] for row in result["rows"]] == [1, 4]
    assert all(row["ttft_ms"] > 0 and row["layers_run"] == 1 for row in result["rows"])
    assert set(result["sharing_check"]) == {"full_ms", "shared_ms", "extrapolated_ms"}


def test_rows_of_the_benchmark_are_ratios_of_the_same_round():
    names = ("encoder, torch", "encoder, ONNX Runtime", "first token", "answer")
    seconds = dict.fromkeys(names, np.array([1.0, 2.0, 4.0]))
    seconds |= {name: np.array([2.0, 6.0, 8.0]) for name in ("encoder, peer", "first token, peer", "answer, peer")}
    rows = list(_rows(seconds, PLANS["laptop"], 2, torch.zeros(1)))
    assert [row["ratio"] for row in rows] == [2.0] * 4
    assert [row["spread"] for row in rows] == [[2.0, 3.0]] * 4
    assert [row["aim"] for row in rows] == [1.5, 1.7, None, 1.2]
    assert {row["ours"] for row in rows} == {2000.0}


def test_language_models_of_the_profile_are_the_presets():
    assert LANGUAGE_MODELS["qwen2-7b"] is QWEN2_7B


def test_recorded_results_if_any_are_readable():
    recorded = read_recorded("fastvlm")
    assert recorded is None or recorded["claims"]
