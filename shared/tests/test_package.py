"""What the package promises about itself: it starts at once, stays small, and needs nothing heavy."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tenfold_shared

SOURCE = Path(tenfold_shared.__file__).parent
FILES = sorted(SOURCE.glob("*.py"))
MODULES = [f"tenfold_shared.{module.name}" for module in pkgutil.iter_modules([str(SOURCE)])]


def modules_after(code):
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_brings_in_nothing():
    assert not modules_after("import tenfold_shared") & {
        "numpy",
        "tqdm",
        "subprocess",
        "tenfold_shared.claims",
    }


def test_commands_and_claims_bring_in_no_numpy():
    loaded = modules_after("import tenfold_shared.commands, tenfold_shared.claims, tenfold_shared.logs")
    assert "numpy" not in loaded


@pytest.mark.parametrize("module", MODULES)
def test_no_framework_and_no_extra_is_imported(module):
    assert not modules_after(f"import {module}") & {"torch", "jax", "regex", "ftfy", "tokenizers", "scipy"}


@pytest.mark.parametrize("module", ["tenfold_shared", *MODULES])
def test_names_exist_and_are_documented(module):
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__ and not value.__doc__.startswith(f"{name}("), name


@pytest.mark.parametrize("module", ["tenfold_shared", *MODULES])
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_top_level_names():
    assert set(dir(tenfold_shared)) >= {*tenfold_shared.__all__, "__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", tenfold_shared.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tenfold_shared.nothing  # noqa: B018


def test_it_stays_small():
    lengths = {file.name: len(file.read_text().splitlines()) for file in FILES}
    assert max(lengths.values()) <= 400


def test_functions_stay_short():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno and node.end_lineno - node.lineno < 60, f"{file.name}: {node.name}"
