"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil
from importlib.util import find_spec

import pytest

import tinypeft

NEEDS = {"tinypeft.grading.exports.nbgrader_preprocessor": "nbgrader"}  # module -> what it is for, and imports
MODULES = [module.name for module in pkgutil.walk_packages(tinypeft.__path__, "tinypeft.")
           if find_spec(NEEDS.get(module.name, "tinypeft"))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name):
    assert doctest.testmod(importlib.import_module(name), raise_on_error=False).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name))) > 20
