"""What a job declares in lib/pipeline.py is what its code does: the rooms it runs in, the tables it reads and writes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.pipeline import JOBS, PIPELINE, ROOT, Job

PACKAGES = ("lib", "rl", "gan")
NO_RESULT_DEPENDS_ON = {
    "lib/pipeline.py"
}  # the declarations themselves; a job's inputs and rooms are hashed one by one
TABLE = re.compile(r"(?:bronze|silver|gold)/[a-z_]*$")


def imported_modules(file: Path) -> Iterator[str]:
    """Every module that a file imports when it runs, wherever in it the import stands."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(file.read_text()))


def file_of(module: str) -> Path | None:
    """The file of one of our modules; None for any other name."""
    path = ROOT / module.replace(".", "/")
    candidates = (path.with_suffix(".py"), path / "__init__.py") if module.split(".", maxsplit=1)[0] in PACKAGES else ()
    return next((file for file in candidates if file.is_file()), None)


def needed_files(job: Job) -> set[Path]:
    """Every file of ours that a job imports, directly or not, below the checkout."""
    found: set[Path] = set()
    waiting = [ROOT / job.path]
    while waiting:
        files = {file for module in imported_modules(waiting.pop()) if (file := file_of(module)) is not None}
        waiting += files - found
        found |= files
    return {file.relative_to(ROOT) for file in found}


def is_in(file: Path, room: str) -> bool:
    return file == Path(room) or file.is_relative_to(room)


@pytest.mark.parametrize("job", PIPELINE, ids=lambda job: job.name)
def test_what_a_job_imports_is_among_the_rooms_that_it_declares(job: Job) -> None:
    rooms = {*job.code_rooms, *NO_RESULT_DEPENDS_ON}
    files = {file for file in needed_files(job) if file.parts[1:] != ("__init__.py",)}
    assert files, "a job runs some code of ours"
    assert sorted(str(file) for file in files if not any(is_in(file, room) for room in rooms)) == []
    assert [room for room in job.code_rooms if not (ROOT / room).exists()] == []


@pytest.mark.parametrize("job", PIPELINE, ids=lambda job: job.name)
def test_a_job_declares_no_room_that_it_does_not_run_in(job: Job) -> None:
    files = needed_files(job)
    assert [room for room in job.code if not any(is_in(file, room) for file in files)] == []


def test_the_top_of_each_package_holds_nothing_but_its_docstring() -> None:
    for package in PACKAGES:
        (only,) = ast.parse((ROOT / package / "__init__.py").read_text()).body
        assert isinstance(only, ast.Expr)


def test_an_import_inside_a_function_counts_and_one_for_type_checking_does_not(tmp_path: Path) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.b\ndef f():\n    from c import d\n"
    (tmp_path / "x.py").write_text(source)
    assert list(imported_modules(tmp_path / "x.py")) == ["typing", "typing.TYPE_CHECKING", "c", "c.d"]


def tables_named(job: Job) -> tuple[set[str], set[str]]:
    """The tables that a job's file names as text: those it commits, and all others (docstrings and contracts apart)."""
    tree = ast.parse((ROOT / job.path).read_text())
    texts = {
        node: node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    committed, declared = set(), set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        constants = {node for node in ast.walk(call.args[0]) if node in texts}
        if name in ("commit", "commit_arrow"):
            committed |= constants
        elif name in ("contract", "empty"):
            declared |= constants
    compared = {node for side in ast.walk(tree) if isinstance(side, ast.Compare) for node in ast.walk(side)}
    read = {node for node in texts if TABLE.match(texts[node])} - committed - declared - compared
    return {texts[node] for node in committed}, {texts[node] for node in read}


def every_source(table: str) -> str:
    """`bronze/`, the beginning of a source's table, stands for all of them."""
    return "bronze/*" if table == "bronze/" else table


# A job may look at what it has written itself, such as its own rejects or the key of its pseudonyms.
@pytest.mark.parametrize("job", [job for job in PIPELINE if job.engine != "local"], ids=lambda job: job.name)
def test_a_job_reads_the_tables_that_it_declares_all_of_them_and_no_other(job: Job) -> None:
    _, read = tables_named(job)
    read_by_name = {every_source(table) for table in read} - set(job.writes)
    assert read_by_name == {*job.reads, *job.may_read}


def test_the_report_reads_every_table_of_the_lake() -> None:
    assert JOBS["report"].may_read == ("*",)
