"""From WARC to a leaderboard page with one command, resumed, refused, and with Ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dclm import cli, sample_pool

pytestmark = pytest.mark.timeout(400)  # compiles a lot, and a busy machine takes minutes for that


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dclm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


def chain(out, *more, pool=None):
    inputs = sample_pool()[:1] if pool is None else pool
    return ("run", "dclm_baseline", *inputs, "--scale", "tiny", "--tokenizer", "bytes", "--out", out, *more)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    items = [{"query": f"q{n}", "choices": ["yes", "no"], "gold": n % 2} for n in range(4)]
    (folder / "copa.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder


@pytest.fixture(scope="module")
def weights():
    return lambda out: (Path(out) / "train" / "model" / "model.safetensors").read_bytes()


def in_a_process(*arguments):
    command = [sys.executable, "-m", "dclm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tasks):
    """A finished chain, by the command in a process of its own."""
    out = tmp_path_factory.mktemp("chain") / "out"
    return out, in_a_process(*chain(out, "--tasks", tasks, "--json", "--quiet"))


@pytest.fixture(scope="module")
def whole(made):
    return made[0]


def test_from_pages_to_a_leaderboard(made, whole):
    assert made[1].returncode == 0, made[1].stderr
    found = json.loads(made[1].stdout)
    assert set(found["accuracies"]) == {"copa"} and found["core"] is None and found["tokens"] > 40_000
    records = {path.stem: json.loads(path.read_text()) for path in (whole / "records").iterdir()}
    assert records["dataset"]["sources"][0]["uuid"] == records["dataset_raw"]["uuid"]
    assert records["model"]["dataset_uuid"] == records["dataset"]["uuid"]
    assert records["evaluation"]["model_uuid"] == records["model"]["uuid"]
    assert len({record["uuid"] for record in records.values()}) == 4
    page = Path(found["page"]).read_text()
    assert "dclm_baseline" in page and "<table>" in page


def test_a_finished_chain_is_kept(monkeypatch, capsys, whole, tasks):
    before = (whole / "records" / "evaluation.json").read_text()
    assert run(monkeypatch, capsys, *chain(whole, "--tasks", tasks))[0] == 2
    status, _, _ = run(monkeypatch, capsys, *chain(whole, "--tasks", tasks, "--resume", "--quiet"))
    assert status == 0 and (whole / "records" / "evaluation.json").read_text() == before
    status, _, err = run(monkeypatch, capsys, *chain(whole, "--resume"))
    assert status == 2 and "another model, tokenizer or tasks" in err


def test_what_is_missing_is_said_before_hours_of_work(monkeypatch, capsys, tmp_path, tasks):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "copa.jsonl").write_text(json.dumps({"query": "q", "choices": ["a", "b"], "gold": 2}))
    for more, words in (
        (("--tasks", tmp_path / "bad"), "line 1 has gold 2"),
        (("--tasks", tmp_path / "none"), "no task files below"),
    ):
        status, _, err = run(monkeypatch, capsys, *chain(tmp_path / "out", *more))
        assert status == 2 and words in err and not (tmp_path / "out").exists()
    status, _, err = run(monkeypatch, capsys, *chain(tmp_path / "out", "--tasks", tasks, pool=[tmp_path / "gone"]))
    assert status == 2 and "no documents at" in err and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["tokenize", "train", "evaluate"])
def test_a_chain_that_stopped_goes_on(monkeypatch, capsys, tmp_path, whole, tasks, weights, stage):
    import dclm.chain

    names = {"tokenize": "_tokens", "train": "_train", "evaluate": "_evaluate"}

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dclm.chain, names[stage], stop)
        assert run(patch, capsys, *chain(tmp_path / "o", "--tasks", tasks, "--quiet"))[0] == 130
    status, _, err = run(monkeypatch, capsys, *chain(tmp_path / "o", "--tasks", tasks, "--resume", "--quiet"))
    assert status == 0, err
    assert weights(tmp_path / "o") == weights(whole)


@pytest.mark.slow
@pytest.mark.ray
def test_data_steps_on_ray_give_the_same_model(tmp_path, whole, tasks, weights):
    """In a process of its own: Ray forks, and JAX must not have been started before."""
    done = in_a_process(*chain(tmp_path / "o", "--tasks", tasks, "--quiet", "--json", "--engine", "ray"))
    assert done.returncode == 0, done.stderr
    assert "os.fork" not in done.stderr and json.loads(done.stdout)["tokens"] > 40_000
    assert weights(tmp_path / "o") == weights(whole)


def test_training_and_conversion_by_hand(monkeypatch, capsys, tmp_path, token_folder):
    model = tmp_path / "run" / "model"
    arguments = ("train", token_folder, "--scale", "tiny", "--out", tmp_path / "run", "--vocab-size", 512)
    status, _, err = run(monkeypatch, capsys, *arguments, "--quiet")
    assert status == 2 and "the model's context length asks for 129" in err
    status, out, _ = run(monkeypatch, capsys, "train", "--dry-run", "--scale", "tiny", "--vocab-size", 512, "--json")
    assert status == 0 and json.loads(out)["updates"] == 40
    assert not model.exists()
    status, _, err = run(monkeypatch, capsys, "evaluate", tmp_path)
    assert status == 2 and "no config.json" in err
    status, out, _ = run(monkeypatch, capsys, "scales", "--json")
    assert status == 0 and json.loads(out)["7b-1x"]["model"]["dim"] == 4096
