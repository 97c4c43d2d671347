"""Who imports whom among the jobs, which are files and no package; the import contracts in pyproject.toml hold it of the packages."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "jobs").rglob("*.py"))
SPARK = ("pyspark", "delta", "lib.engines.spark")
RAY = ("ray", "lib.engines.ray_train", "lib.engines.ray_cluster", "rl.learning.train", "gan.training.train")


def imported(source: str) -> Iterator[str]:
    """Every module that a file imports, wherever in it: `from a import b` may mean the module a or a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield origin
            yield from (f"{origin}.{name.name}" for name in node.names)


def among(modules: Iterator[str], forbidden: tuple[str, ...]) -> list[str]:
    return [module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in forbidden)]


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import ray.train as t\nfrom lib.engines import spark\ndef f():\n    from . import x\n"
    assert list(imported(source)) == ["ray.train", "lib.engines", "lib.engines.spark", ".", "..x"]
    assert among(imported(source), SPARK) == ["lib.engines.spark"]
    assert among(iter(["rayleigh", "lib.engines.ray_train"]), RAY) == ["lib.engines.ray_train"]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.parent.name}/{job.stem}")
def test_a_job_imports_no_other_job_and_only_its_own_engine(job: Path) -> None:
    modules = list(imported(job.read_text()))
    others = ("jobs", *(other.stem for other in JOBS), *(f"{other.parent.name}.{other.stem}" for other in JOBS))
    assert among(iter(modules), others) == []
    assert not any(module.startswith(".") for module in modules)
    assert among(iter(modules), RAY if job.parent.name == "spark" else SPARK) == []


def test_no_job_carries_the_name_of_a_module_that_its_folder_would_hide() -> None:
    # The folder of a script stands first on sys.path.
    names = {job.stem for job in JOBS}
    assert not names & ({"lib", "rl", "gan", "ray", "pyspark", "torch"} | sys.stdlib_module_names)


def test_tests_import_nothing_of_the_acceptance_but_its_own() -> None:
    files = [file for file in (ROOT / "tests").rglob("*.py") if (ROOT / "tests" / "acceptance") not in file.parents]
    assert len(files) > 50
    found = {file.name: among(imported(file.read_text()), ("acceptance",)) for file in files}
    assert {name: modules for name, modules in found.items() if modules} == {}
