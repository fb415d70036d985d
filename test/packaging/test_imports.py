"""The import graph of the whole tree. `[tool.importlinter]` in pyproject.toml has the rooms."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mempool", "router", "sglang_memserve", "benchmark")


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def circle_in(imports):
    """A circle of modules, the first one repeated at the end; None if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_imports(graph, package):
    """Also between a package and its own modules, which import-linter does not compare."""
    modules = [name for name in graph.modules if name.partition(".")[0] == package]
    circle = circle_in({name: graph.find_modules_directly_imported_by(name) for name in modules})
    assert circle is None, " -> ".join(reversed(circle))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_is_a_package(package):
    """A folder without __init__.py is left out of the import graph without a word."""
    folders = {file.parent for file in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
