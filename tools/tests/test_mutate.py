"""Mutants: what is flipped, that the choice repeats, that good tests catch them and the source stays as it was."""

import ast

import pytest
from tenfold_tools import mutate

SOURCE = '''\
"""Text with 3 + 4."""

SCALE: float = 2.0


def loss(a: int, b: "1 + 1") -> int:
    """Return 5 - 4."""
    if not a < b <= 3:
        raise ValueError(f"{a + 1} is bad")
    return -a * b + 1 if a and True else b


if __name__ == "__main__":
    print(1 + 1)
'''
LOSS = "def double(x):\n    return 2 * x + 1\n\n\ndef clip(x):\n    return 0 if x < 3 else x\n"
GOOD_TEST = """
import loss

def test_loss():
    assert [loss.double(x) for x in (0, 1, 5)] == [1, 3, 11]
    assert [loss.clip(x) for x in (2, 3, 4)] == [0, 3, 4]
"""


def test_every_kind_of_place_is_flipped_and_nothing_else():
    count = len(list(mutate.places(ast.parse(SOURCE))))
    changes = [mutate.mutated(SOURCE, index)[1].split(": ")[1] for index in range(count)]
    assert sorted(changes) == sorted(
        [
            "2.0 -> 3.1",
            "Not dropped",
            "Lt -> LtE",
            "LtE -> Lt",
            "3 -> 4",
            "And -> Or",
            "True -> False",
            "Add -> Sub",
            "Mult -> Div",
            "USub dropped",
            "1 -> 2",
        ]
    )


def test_a_mutant_differs_in_one_place_and_is_valid():
    original = ast.unparse(ast.parse(SOURCE))
    for index in range(len(list(mutate.places(ast.parse(SOURCE))))):
        text, _ = mutate.mutated(SOURCE, index)
        compile(text, "mutant", "exec")
        differing = [pair for pair in zip(text.splitlines(), original.splitlines(), strict=True) if len(set(pair)) > 1]
        assert len(differing) == 1


@pytest.fixture
def workspace(tmp_path):
    """A workspace with one package whose tests are good."""
    package = tmp_path / "packages/one"
    (package / "src").mkdir(parents=True)
    (package / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n")
    (package / "src/loss.py").write_text(LOSS)
    (package / "src/config.py").write_text("SIZE = 1 + 1\n")
    (package / "tests/test_loss.py").write_text(GOOD_TEST)
    return tmp_path


def test_the_choice_repeats_and_leaves_configuration_alone(workspace):
    chosen = mutate.choose(workspace / "packages/one", count=4)
    assert chosen == mutate.choose(workspace / "packages/one", count=4)
    assert {mutant.file for mutant in chosen} == {"src/loss.py"}
    assert chosen != mutate.choose(workspace / "packages/one", count=4, seed=1)


def test_a_package_without_mathematics_is_refused(workspace):
    (workspace / "packages/one/src/loss.py").unlink()
    with pytest.raises(ValueError, match="no operator or constant"):
        mutate.choose(workspace / "packages/one")


@pytest.mark.parametrize(("test", "status"), [(GOOD_TEST, 0), ("import loss\n\ndef test_it():\n    pass\n", 1)])
def test_good_tests_catch_what_poor_ones_do_not(workspace, monkeypatch, capsys, test, status):
    monkeypatch.setattr(mutate, "NUM_MUTANTS", 4)
    monkeypatch.setattr(mutate, "MIN_CAUGHT", 3)
    choose = mutate.choose
    monkeypatch.setattr(mutate, "choose", lambda folder: choose(folder, count=4))
    (workspace / "packages/one/tests/test_loss.py").write_text(test)
    assert mutate.run(workspace, "packages/one") == status
    assert ("SURVIVED" in capsys.readouterr().out) == bool(status)
    assert (workspace / "packages/one/src/loss.py").read_text() == LOSS


def test_tests_that_speak_of_a_module_are_told_from_others(workspace):
    folder = workspace / "packages/one"
    (folder / "tests/test_a.py").write_text("import other\n")
    (folder / "tests/test_z.py").write_text("import loss\n")
    own, others = (mutate.test_files(folder, "loss", own=own) for own in (True, False))
    assert [file.name for file in own] == ["test_loss.py", "test_z.py"]
    assert [file.name for file in others] == ["test_a.py"]


def test_what_the_modules_tests_miss_others_may_catch(workspace, monkeypatch, capsys):
    monkeypatch.setattr(mutate, "NUM_MUTANTS", 4)
    monkeypatch.setattr(mutate, "MIN_CAUGHT", 3)
    choose = mutate.choose
    monkeypatch.setattr(mutate, "choose", lambda folder: choose(folder, count=4))
    tests = workspace / "packages/one/tests"
    (tests / "test_loss.py").write_text("import loss\n\ndef test_it():\n    pass\n")
    (tests / "helper.py").write_text("from loss import *\n")
    other = GOOD_TEST.replace(
        "import loss", "import sys; sys.path.insert(0, __file__.rpartition('/')[0]); import helper"
    )
    (tests / "test_other.py").write_text(other.replace("loss.", "helper.").replace("test_loss", "test_it"))
    assert mutate.run(workspace, "packages/one") == 0
    printed = capsys.readouterr().out
    assert printed.count("SURVIVED its module's tests") == 4 and printed.count("caught  ") >= 3


def test_tests_that_fail_anyway_catch_nothing(workspace):
    (workspace / "packages/one/tests/test_loss.py").write_text("def test_it():\n    assert False\n")
    with pytest.raises(ValueError, match="fail as they are"):
        mutate.run(workspace, "packages/one")


def test_packages_are_found_by_name():
    folders = ["packages/one", "shared"]
    assert mutate.find_folder("one", folders) == mutate.find_folder("packages/one", folders) == "packages/one"
    with pytest.raises(ValueError, match="unknown package `two`; there are one, shared"):
        mutate.find_folder("two", folders)
