"""Sizes are counted as the house style means them, and what is over a limit is named."""

import ast

import pytest
from tenfold_tools import house_metrics
from tenfold_tools.house_metrics import Report

SOURCE = '''\
def short(first, second):
    """One line.

    Args:
        first: This.
    """
    return first


class Thing:
    def method(self, a, b, c, d, e, *, f):
        def inner():
            return 1
        return inner
'''


def _function(source: str) -> ast.FunctionDef:
    return next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))


def test_a_docstring_does_not_make_a_function_long():
    assert house_metrics.function_lines(_function(SOURCE)) == 2


def test_methods_are_named_with_their_class_and_inner_functions_count_with_the_outer():
    named = dict(house_metrics.functions_of(ast.parse(SOURCE)))
    assert list(named) == ["short", "Thing.method"]
    assert house_metrics.function_lines(named["Thing.method"]) == 4


@pytest.mark.parametrize(("count", "over"), [(6, False), (7, True)])
def test_six_arguments_are_enough(count, over):
    names = ", ".join(f"a{i}" for i in range(count))
    for source in (f"def f({names}): ...", f"def f(self, {names}): ...", f"def f(*, {names}): ..."):
        assert bool(house_metrics.function_excesses("f", _function(source))) == over


@pytest.mark.parametrize(("lines", "over"), [(60, False), (61, True)])
def test_sixty_lines_are_enough(lines, over):
    source = "def f():\n" + "    x = 1\n" * (lines - 1)
    assert bool(house_metrics.function_excesses("f", _function(source))) == over


def test_the_ninetieth_percentile():
    assert house_metrics.percentile(tuple(range(1, 11)), 0.9) == 9
    assert house_metrics.percentile((5,), 0.9) == 5


def test_a_member_is_measured(tmp_path):
    (tmp_path / "shared/src/x").mkdir(parents=True)
    (tmp_path / "shared/tests").mkdir()
    (tmp_path / "shared/src/x/long.py").write_text("x = 1\n" * 1501)
    (tmp_path / "shared/src/x/short.py").write_text(SOURCE)
    (tmp_path / "shared/tests/test_long.py").write_text("x = 1\n" * 401)
    report = house_metrics.member_report(tmp_path, "shared")
    assert report.functions == (2, 4)
    assert [excess.where for excess in report.excesses] == [
        "shared/src/x/long.py",
        "shared/tests/test_long.py",
    ]
    assert "functions    2: median   3" in report.line()


def test_what_is_over_a_limit_needs_a_reason(tmp_path, capsys):
    (tmp_path / "one/src").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "one/src/a.py").write_text("x = 1\n" * 401)
    (tmp_path / "tests/allowed.toml").write_text("")
    assert house_metrics.run(tmp_path, ["one"]) == 1
    assert "one/src/a.py: 401 lines, at most 400" in capsys.readouterr().out
    (tmp_path / "tests/allowed.toml").write_text('[[size]]\nwhere = "one/src/a.py"\nreason = "a table"\n')
    assert house_metrics.run(tmp_path, ["one"]) == 0


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def f(): ...", "everything"),
        ('def f(a, b) -> int:\n    """Do it."""', "Args and Returns"),
        ('def f(a, b) -> int:\n    """Do it.\n\n    Args:\n        a: x.\n    """', "Returns"),
        ('def f(a) -> int:\n    """Do it."""', None),
        ('def f(a, b) -> None:\n    """Do it.\n\n    Args:\n        a: x.\n    """', None),
        ("class f: ...", "everything"),
        ('class f:\n    """A thing."""', None),
        ("def other(): ...", None),
    ],
)
def test_docstrings_say_what_the_house_style_asks_for(tmp_path, source, missing):
    (tmp_path / "a.py").write_text(source)
    problems = house_metrics.docstring_problems(tmp_path / "a.py", {"f"})
    assert [problem.what for problem in problems] == ([f"docstring lacks {missing}"] if missing else [])


def test_an_empty_member_has_a_line():
    assert "most   0" in Report("empty", (), (), ()).line()
