"""The experiment's parts: its tasks and losses, its verdicts on figures made up."""

import hashlib
import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
from muscle import collect, corpus, decoder, experiment, reproduce, tasks, trials, verdicts
from muscle.loss import compatibility_loss
from tenfold_shared.commands import InputError


def test_the_optimiser_is_adam_for_each_run():
    flat = torch.randn(2, 5)
    ours = trials.Adam(flat.clone(), [0.1, 0.01])
    theirs = [torch.nn.Parameter(row.clone()) for row in flat]
    optimisers = [torch.optim.Adam([p], lr=lr) for p, lr in zip(theirs, (0.1, 0.01), strict=True)]
    for step in range(4):
        gradient = torch.randn(2, 5, generator=torch.Generator().manual_seed(step)) * 0.1
        ours.step(gradient, 1.0)
        for parameter, row, optimiser in zip(theirs, gradient, optimisers, strict=True):
            parameter.grad = row.clone()
            optimiser.step()
    assert torch.allclose(ours.flat, torch.stack([p.detach() for p in theirs]), atol=1e-6)


def test_an_epoch_is_judged_by_the_mean_of_its_weights(kind, monkeypatch):
    """Batches of 2 make four steps an epoch: the mean takes a half, a third, then a quarter of each new value."""
    shape = reproduce._SMOKE.shape
    model = decoder.Decoder(shape, decoder.init_weights(shape, 0))
    rows = trials.freeze(model, replace(kind.train, **{name: getattr(kind.train, name)[:8] for name in FIELDS}))
    start = trials.start_adapters(decoder.Layout(shape, trials.RANK), [1, 2], "cpu")
    seen, steps = [], []

    class Watched(trials.Adam):
        def step(self, gradient, factor):
            super().step(gradient, factor)
            steps.append(self.flat.detach().clone())
            assert factor == min(1, len(steps) / trials.WARMUP)

    monkeypatch.setattr(trials, "BATCH", 2)
    monkeypatch.setattr(trials, "Adam", Watched)
    material = trials.Material(rows, rows, lambda flat: seen.append(flat.clone()) or [[], []])
    run = trials.train_arm(model, material, trials.Plan(start, [1, 2], [0.1, 0.2], 2))
    assert len(steps) == 8 and len(run.losses) == len(run.adapters) == 2
    mean = start.clone()
    for count, (value, share) in enumerate(zip(steps, (1 / 2, 1 / 3, *[1 / 4] * 6), strict=True), start=1):
        mean = (1 - share) * mean + share * value
        if count in (4, 8):
            assert torch.allclose(run.adapters[count // 4 - 1], mean, atol=1e-6)
    assert all(torch.equal(one, other) for one, other in zip(seen, run.adapters, strict=True))
    assert run.losses[1] == pytest.approx(trials.validation_loss(model, run.adapters[1], rows))


FIELDS = ("prompts", "valid", "answers", "labels")


@pytest.fixture(scope="module")
def kind():
    return tasks.build_task("kind", 24, 10)


def unpadded(rows, place, answer=None):
    """A row as it would be without any padding: prompt and answer."""
    prompt = rows.prompts[place][rows.valid[place]].tolist()
    labels = rows.labels[place]
    return prompt, labels[labels >= 0].tolist() if answer is None else answer


def test_the_objective_is_the_loss_run_by_run(kind):
    shape = reproduce._SMOKE.shape
    model = decoder.Decoder(shape, decoder.init_weights(shape, 0))
    rows = trials.freeze(model, kind.train)
    flat = trials.start_adapters(decoder.Layout(shape, trials.RANK), [1, 2], "cpu") + 0.05
    old, new = flat + 0.02, flat - 0.02
    states = [trials.hidden_states(model, part, rows) for part in (old, new)]
    picked = torch.tensor([[0, 3, 5], [2, 1, 9]])

    def logits_of(part, place):
        """Logits of one row's answer, from the whole decoder and nothing padded."""
        prompt, answer = unpadded(kind.train, place)
        ids = torch.tensor([[prompt + answer[:-1]]])
        return model.logits(model.hidden(ids, part, trials.RANK))[0, 0, len(prompt) - 1 :], torch.tensor(answer)

    for arm in (trials.Arm(), trials.Arm(1.0), trials.Arm(0.5, "ll_sequence")):
        teachers = trials.Teachers(((model, states[0][:1]), (model, states[0][1:])), states[1])
        found = trials.objective(model, flat, rows, picked, arm, teachers)
        for run in range(2):
            total, count = 0.0, 0
            for place in picked[run]:
                three = [logits_of(part[run : run + 1], int(place)) for part in (flat, old, new)]
                answer = three[0][1]
                cross = torch.nn.functional.cross_entropy(three[0][0], answer)
                value = (1 - arm.weight) * cross
                if arm.weight:
                    value = value + arm.weight * compatibility_loss(*(x for x, _ in three), answer, mask=arm.mask)
                total, count = total + float(value) * len(answer), count + len(answer)
            assert float(found[run]) == pytest.approx(total / count, rel=2e-3, abs=1e-5)


def test_validation_loss_is_that_of_all_answer_tokens(kind):
    shape = reproduce._SMOKE.shape
    model = decoder.Decoder(shape, decoder.init_weights(shape, 0))
    rows = trials.freeze(model, kind.validation)
    flat = trials.start_adapters(decoder.Layout(shape, trials.RANK), [1, 2], "cpu") + 0.05
    labels = kind.validation.labels
    ours = trials.validation_loss(model, flat, rows)
    for run in range(2):
        states = trials.hidden_states(model, flat[run : run + 1], rows)[0].float()
        theirs = torch.nn.functional.cross_entropy(model.logits(states).flatten(0, 1), labels.flatten())
        assert ours[run] == pytest.approx(float(theirs), rel=1e-3)


def test_task_rows(kind):
    question = kind.tokenizer.encode("\nKind:", add_special_tokens=False).ids
    for place in range(5):
        prompt, answer = unpadded(kind.train, place)
        assert prompt[-len(question) :] == question == kind.train.prompts[place, -len(question) :].tolist()
        assert answer[-1] == 0 and kind.tokenizer.decode(answer[:-1]).strip() in corpus.KINDS
        assert (kind.train.answers[place, : len(answer)]).tolist() == answer
    assert (kind.tests.labels == -100).all() and (kind.tests.answers == 0).all(), "tests hold no answer"


def test_a_mask_hides_padding_and_what_comes_later():
    valid = torch.tensor([[False, True, True], [True, True, True]])
    rows = tasks.Rows(torch.ones(2, 3).long(), valid, torch.ones(2, 3).long(), torch.ones(2, 3).long())
    mask = rows.mask(3)[:, 0]
    assert rows.ids.shape == (2, 5)
    assert mask[0].int().tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert mask[1].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert rows.mask(5)[0, 0, 0].int().tolist() == [1, 0, 0, 0, 0], "padding sees itself"


def test_choices_hold_the_right_one_anywhere():
    labels = sorted({row["label"] for row in corpus.read_tasks("lead")["train"]})
    rows = corpus.read_tasks("lead")["test"][:400]
    places = [tasks.draw_choices(row, labels).index(row["label"]) for row in rows]
    assert len(labels) == 11 and np.bincount(places, minlength=4).min() > 70
    assert all(len(set(tasks.draw_choices(row, labels))) == 4 for row in rows)


def test_the_frozen_data():
    for name, digest in (("tasks.jsonl.gz", "830c85fdaf0b2e1a"), ("tokenizer.json", "1f3d38400b8b652a")):
        content = resources.files("muscle").joinpath("data", name).read_bytes()
        assert hashlib.sha256(content).hexdigest().startswith(digest)
    for kind in ("lead", "gloss"):
        parts = corpus.read_tasks(kind)
        assert {name: len(rows) for name, rows in parts.items()} == corpus.SIZES
        keys = [(row["title"], row["text"]) for rows in parts.values() for row in rows]
        assert len(set(keys)) == len(keys), "no example is in two parts"


def test_generation_is_greedy_and_ends_at_the_end_token(kind):
    shape = replace(reproduce._SMOKE.shape, num_layers=3)
    model = decoder.Decoder(shape, decoder.init_weights(shape, 3))
    flat = trials.start_adapters(decoder.Layout(shape, trials.RANK), [0, 1], "cpu")
    flat[1] += 0.2
    found = trials.generate(model, flat, trials.read_prompts(model, kind.tests))
    assert found[0] != found[1]
    for run, part in zip(found, flat, strict=True):
        for place, row in enumerate(run):
            prompt, _ = unpadded(kind.tests, place)
            tokens = list(prompt)
            for _ in range(tasks.FORMATS["kind"].answer_tokens):
                hidden = model.hidden(torch.tensor([[tokens]]), part[None], trials.RANK)
                tokens.append(int(model.logits(hidden)[0, 0, -1].argmax()))
            expected = tokens[len(prompt) :]
            assert row == (expected[: expected.index(0)] if 0 in expected else expected)


def test_choosing_adds_up_log_probabilities():
    task = tasks.build_task("topic", 4, 5)
    shape = reproduce._SMOKE.shape
    weights = {n: v * (5 if v.dim() == 2 else 1) for n, v in decoder.init_weights(shape, 3).items()}
    model = decoder.Decoder(shape, weights)
    flat = trials.start_adapters(decoder.Layout(shape, trials.RANK), [0], "cpu")
    (found,) = trials.choose(model, flat, trials.freeze(model, task.tests))
    for example, choice in enumerate(found):
        scores = []
        for place in range(4 * example, 4 * example + 4):
            prompt, answer = unpadded(task.tests, place)
            ids = torch.tensor([[prompt + answer[:-1]]])
            logs = model.logits(model.hidden(ids))[0, 0, len(prompt) - 1 :].log_softmax(-1)
            scores.append(sum(float(logs[i, token]) for i, token in enumerate(answer[:-1])))
        assert choice == int(np.argmax(scores))


def arm(level, nfr, epochs=3, seeds=5, noise=0.001):
    """An arm whose level and NFR end at the given values, with a little noise per seed."""
    shift = np.random.default_rng(0).normal(0, noise, seeds)
    levels = np.linspace(level - 0.02, level, epochs)[:, None] + shift
    rates = np.linspace(nfr + 0.01, nfr, epochs)[:, None] + shift
    return verdicts.Arm(levels, rates, {}, np.full(seeds, epochs - 1))


def found(seeds=5, **changes):
    arms = {name: arm(0.7, 0.05, seeds=seeds) for name in collect.ARM_NAMES}
    arms |= {verdicts.PLAIN: arm(0.66, 0.06, seeds=seeds), "noise floor": arm(0.66, 0.02, seeds=seeds)}
    arms |= {name: arm(*value, seeds=seeds) for name, value in changes.items()}
    return {(regime, task): dict(arms) for regime in collect.REGIMES for task in tasks.TASK_NAMES}


BASES = dict.fromkeys(tasks.TASK_NAMES, 0.5)


def judge(figures, budget="full"):
    return {claim.claim: claim for claim in verdicts.judge(figures, BASES, budget=budget, seconds=1.0, data="")}


FIRST, EQUAL = (pair[0] for pair in verdicts.PAIRS[:2])


def test_fewer_flips_than_plain_v2_by_hand():
    claim = judge(found(MUSCLE=(0.7, 0.03)))[FIRST]
    plain, ours = arm(0.66, 0.06).at_best(), arm(0.7, 0.03).at_best()
    assert claim.ours.per_seed == pytest.approx(100 * (1 - ours / plain))
    assert (claim.verdict, claim.minimum_effect, claim.control.mean) == ("shown", 10, 0)


@pytest.mark.parametrize(("nfr", "verdict"), [(0.02, "shown"), (0.09, "contradicted")])
def test_at_equal_level_the_control_is_read_off_the_curve(nfr, verdict):
    figures = found(MUSCLE=(0.69, nfr))
    claim = judge(figures)[EQUAL]
    curve = figures["alike", "kind"]
    level, rates = curve[verdicts.CONTINUED].level[:, 0], curve[verdicts.CONTINUED].nfr[:, 0]
    at = float(np.interp(curve["MUSCLE"].at_best("level")[0], level, rates))
    assert verdicts.matched(curve, "MUSCLE")[0] == pytest.approx(at, abs=1e-9)
    assert claim.verdict == verdict


def test_beyond_the_curve_it_is_flat():
    figures = found(MUSCLE=(0.9, 0.02))["alike", "kind"]
    assert verdicts.matched(figures, "MUSCLE") == pytest.approx(figures[verdicts.CONTINUED].nfr[-1])


def test_equal_arms_show_nothing_and_smoke_is_not_judged():
    same = found(**{verdicts.PLAIN: (0.7, 0.05)})
    claims = [claim for text, claim in judge(same).items() if not text.startswith("Power")]
    assert len(claims) > 20 and "shown" not in {claim.verdict for claim in claims}
    assert {claim.verdict for claim in judge(found(seeds=1), "smoke").values()} == {"not judged"}


def test_larger_is_better_in_every_pair():
    for text, name, control, _, _ in verdicts.PAIRS:
        if control in (verdicts.PLAIN, "matched"):
            continue
        assert judge(found(**{name: (0.7, 0.02), control: (0.7, 0.05)}))[text].verdict == "shown"
        assert judge(found(**{name: (0.7, 0.05), control: (0.7, 0.02)}))[text].verdict == "contradicted"


def test_missing_arms_leave_their_claims_out():
    figures = found()
    for arms in figures.values():
        del arms["KL to old"]
    claims = judge(figures)
    assert "The mask matters: MUSCLE against KL to old everywhere" not in claims and FIRST in claims


def test_the_power_check():
    bases = dict.fromkeys(tasks.TASK_NAMES, 0.5)
    assert all(row["passed"] for row in verdicts.power(found(), bases))
    assert not any(row["passed"] for row in verdicts.power(found(), dict.fromkeys(tasks.TASK_NAMES, 0.6)))
    weak = found(**{"noise floor": (0.66, 0.04)})
    assert not any(row["passed"] for row in verdicts.power(weak, bases))


def test_answers_keep_their_flips_when_packed():
    gold = ["animal", "plant", "act"]
    answers = [[["animal", "act", "nothing"], ["animal", "plant", "act"]]]
    codes = experiment.encode_answers("kind", answers, gold)
    assert codes.dtype == np.uint8 and collect.scores_of("kind", codes, gold).tolist() == [[[1, 0, 0], [1, 1, 1]]]
    words = experiment.encode_answers("short", [[["a b", "c"]]], ["a c", "c"])
    assert collect.scores_of("short", words, []).tolist() == [[[0.5, 1.0]]]
    runs = {"kind-task-b": {"answers": codes, "losses": np.ones((1, 2)), "chosen": codes}, "tuning-x": {}}
    again = collect.unpack_runs(collect.pack_runs(runs))
    assert list(again) == ["kind-task-b"] and (again["kind-task-b"]["answers"] == codes).all()


def test_the_power_check_of_each_task_is_a_claim():
    power = [claim for text, claim in judge(found()).items() if text.startswith("Power check")]
    assert [claim.verdict for claim in power] == ["shown"] * 6
    figures = found()
    figures["alike", "kind"]["noise floor"] = arm(0.66, 0.05)
    weak = {text: c.verdict for text, c in judge(figures).items() if text.startswith("Power check: an update")}
    assert len(weak) == 3 and {text for text, verdict in weak.items() if verdict == "contradicted"} == {
        "Power check: an update breaks twice as much as another seed of the same base (kind)"
    }


def test_an_arm_with_fewer_seeds_pairs_with_the_first_and_gaps_have_rows():
    figures = found()
    for (regime, task), arms in figures.items():
        for name in ("MUSCLE", "KL to old"):
            del arms[name]
        if (regime, task) == ("alike", "kind"):
            arms["MUSCLE"] = arm(0.7, 0.03, seeds=1)
    claims = judge(figures)
    assert FIRST not in claims and claims[f"{FIRST} (kind)"].verdict == "direction only"
    assert len(claims[f"{FIRST} (kind)"].ours.per_seed) == 1
    rows = {row.claim: row for row in verdicts.not_attempted(figures, "no time")}
    assert rows[FIRST].note == "no time" and "The mask matters: MUSCLE against KL to old everywhere" in rows
    assert not set(rows) & set(claims)


def test_claims_out_of_reach_are_not_attempted():
    assert all(claim.verdict == "not attempted" and claim.note for claim in verdicts.not_attempted())


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A run at the smallest size, and its claims."""
    out = tmp_path_factory.mktemp("smoke")
    return out, reproduce.reproduce(out, budget="smoke", seed=0)


@pytest.mark.slow
def test_finished_runs_are_not_made_again(smoke):
    out, first = smoke
    times = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    second = reproduce.reproduce(out, budget="smoke", seed=0)
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == times
    assert [c.ours for c in first if c.ours] == [c.ours for c in second if c.ours]
    assert json.loads((out / "power.json").read_text())[0]["task"] == "topic"
    assert {"curves.svg", "flips.svg"} <= {path.name for path in out.iterdir()}


@pytest.mark.slow
def test_what_is_kept_gives_the_same_figures_and_trains_again(smoke, tmp_path, monkeypatch):
    out, claims = smoke
    monkeypatch.setattr(reproduce, "FULL", reproduce._SMOKE)
    monkeypatch.setattr(reproduce, "SEEDS", (0,))
    monkeypatch.setattr(reproduce, "read_recorded", lambda package: None)
    reproduce.keep_results(out, tmp_path / "kept")
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert names == {"predictions.npz", "rates.json", "base-a.npz", "base-b.npz", "kind-task-a.npz", "kind-task-b.npz"}
    with np.load(tmp_path / "kept/predictions.npz") as arrays:
        runs, golds = collect.unpack_runs(arrays), reproduce._golds(reproduce._SMOKE)
    found, bases = collect.collect(runs, golds, 1), collect.base_levels(runs, golds)
    again = {c.claim: c for c in verdicts.judge(found, bases, budget="smoke", seconds=0.0, data="")}
    assert all(again[c.claim].ours == c.ours and again[c.claim].control == c.control for c in claims if c.ours)
    (tmp_path / "again").mkdir()
    rows = reproduce.laptop(tmp_path / "kept", tmp_path / "again", 0)
    assert len(rows) == 3 and all(row.claim.endswith("(kind)") for row in rows)
    drawn = (tmp_path / "again/flips.svg").read_text()
    assert all(name in drawn for name in collect.ARM_NAMES), "the report shows all recorded arms"
    for arm in ("MUSCLE-b-a", "CE_continued-b"):
        old, new = (collect.RunFolder(folder / "runs")[f"kind-{arm}"] for folder in (out, tmp_path / "again"))
        assert np.allclose(old["losses"], new["losses"], atol=1e-3)


def test_a_laptop_run_needs_what_was_kept(tmp_path):
    with pytest.raises(FileNotFoundError, match="no kept run in"):
        reproduce.laptop(tmp_path, tmp_path, 0)


def test_recorded_figures_are_held_against_the_kept_answers():
    figures = found(MUSCLE=(0.7, 0.03))
    rows = [claim.to_dict() for claim in judge(figures).values()]
    reproduce.check_recorded(figures, BASES, {"claims": rows})
    with pytest.raises(RuntimeError, match="do not give ours of 'MUSCLE has fewer"):
        reproduce.check_recorded(found(MUSCLE=(0.7, 0.031)), BASES, {"claims": rows})


def test_the_kept_bases_are_those_of_the_run():
    folder = resources.files("muscle").joinpath("results")
    digests = json.loads(folder.joinpath("bases.json").read_text())
    for name in ("a", "b"):
        content = folder.joinpath(f"base-{name}.npz").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digests[name] and len(content) < 4_000_000


@pytest.mark.parametrize(("name", "text"), [("MUSCLE_WORKERS", "two"), ("MUSCLE_WORKERS", "0"), ("MUSCLE_SECONDS", "")])
def test_a_number_in_the_environment_that_is_none_is_named(tmp_path, monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=rf"{name} \(={text}\) must be a number from 1 up"):
        reproduce.reproduce(tmp_path, budget="full", seed=0)
