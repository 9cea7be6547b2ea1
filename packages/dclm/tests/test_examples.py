"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import dclm
import pytest

SCRIPTS = {"dclm.__main__", "dclm.peer_datatrove"}
MODULES = [module.name for module in pkgutil.walk_packages(dclm.__path__, "dclm.") if module.name not in SCRIPTS]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
