"""The floor plan: what import-linter's order of the packages (`make lint`) does not say."""

from graphlib import TopologicalSorter

import grimp
import pytest
from support.paths import REPOSITORY


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Which module imports which."""
    return grimp.build_graph("dermalert", "dermalert_space", cache_dir=None)


@pytest.mark.parametrize(("module", "most"), [("dermalert.hub.client", 3), ("dermalert.training.backbones", 6)])
def test_what_is_imported_everywhere_needs_little_itself(module, most, graph):
    needed = graph.find_upstream_modules(module)
    assert 0 < len(needed) <= most, sorted(needed)


def test_few_modules_lie_side_by_side():
    modules = sorted(path.name for path in (REPOSITORY / "dermalert").glob("*.py"))
    assert 0 < len(modules) <= 8, modules


def test_no_module_and_no_package_imports_itself_through_others(graph):
    modules = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    packages = {}
    for module, imported in modules.items():
        package = packages.setdefault(package_of(module), set())
        package |= {package_of(each) for each in imported} - {package_of(module)}
    assert len(packages) > 10
    for each in (modules, packages):
        TopologicalSorter(each).prepare()  # raises CycleError, which names the circle


def package_of(module: str) -> str:
    """The first two names of a module of `dermalert`, such as `dermalert.hub`; of the Space the first."""
    return ".".join(module.split(".")[: 2 if module.startswith("dermalert.") else 1])
