"""The zip that spark-submit ships: what is in it, and clean on an executor whose Python knows the project from the zip alone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyspark
import pytest
from ray._private.runtime_env.packaging import create_package

from lib.cli import package as package_module
from lib.cli.package import build
from lib.cli.submit import PACKAGE, command
from lib.lake.lake import Lake
from lib.pipeline import JOBS, ROOT
from lib.runs import history
from lib.runs.freshness import code_version
from lib.settings import ClusterSettings
from lib.tables import contract
from tests.lakes import put

KEY = "a-key-of-the-test-that-nobody-else-has"
MAPPING = """
name: own
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time}
    events: [{type: view}]
"""
# Runs the job as spark-submit would, then says where lib lies here and on the executors.
PROBE = """
import json, runpy, sys

def where(numbers):
    import lib
    yield lib.__file__

sys.argv[0] = "jobs/spark/clean.py"
runpy.run_path(sys.argv[0], run_name="__main__")
from pyspark.sql import SparkSession
context = SparkSession.getActiveSession().sparkContext
places = context.parallelize(range(4), 4).mapPartitions(where).distinct().collect()
print("PLACES", json.dumps({"driver": list(where([])), "executors": places}))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package") / "cartwheel.zip")


def test_the_zip_holds_the_three_packages_the_shipped_mappings_and_nothing_else(package: Path) -> None:
    names = zipfile.ZipFile(package).namelist()
    assert {name.split("/")[0] for name in names} == {"lib", "rl", "gan", "conf"}
    assert {Path(name).suffix for name in names if name.startswith("lib/")} == {".py", ".j2", ".css", ".html"}
    assert not any("__pycache__" in name for name in names)
    shipped = {f"conf/formats/{file.name}" for file in (ROOT / "conf" / "formats").iterdir()}
    assert {name for name in names if name.startswith("conf/")} == shipped
    sources = {str(file.relative_to(ROOT)) for part in ("lib", "rl", "gan") for file in (ROOT / part).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_equal_sources_make_an_equal_zip(package: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "again.zip").read_bytes() == package.read_bytes()


SECRET = "u00000001"  # stands in each file that must stay
PLANTED = (
    *("lake.key", "shop.key", "conf/shop.key", "lib/tables/shop.key", "conf/formats/shop.key", "rl/.hidden.key"),
    *("shop/silver/events/part-0.parquet", "shop/ops/runs/_delta_log/00000000000000000000.json", "shop/logs/run.log"),
    *("data/log.csv", "log.jsonl", "notes.txt", ".env", "lake/raw/market/events/0.jsonl"),
)


@pytest.fixture
def littered_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the checkout in which keys, lakes and logs lie about."""
    checkout = tmp_path / "checkout"
    for part in ("lib", "rl", "gan", "jobs", "conf"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (".gitignore", ".rayignore", "Makefile", "README.md"):
        shutil.copy(ROOT / file, checkout / file)
    for name in PLANTED:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(SECRET)
    return checkout


def test_no_key_lake_or_data_goes_to_spark(
    littered_checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_module, "ROOT", littered_checkout)
    with zipfile.ZipFile(build(tmp_path / "cartwheel.zip")) as shipped:
        assert [name for name in shipped.namelist() if SECRET.encode() in shipped.read(name)] == []
        assert set(PLANTED).isdisjoint(shipped.namelist())
        assert "lib/tables/gold.py" in shipped.namelist()


def test_no_key_lake_or_data_goes_to_ray(littered_checkout: Path, tmp_path: Path) -> None:
    # What both `cartwheel run` and `ray job submit --working-dir .` upload, by the function of Ray that does it.
    create_package(str(littered_checkout), tmp_path / "ray.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "ray.zip") as shipped:
        names = [name for name in shipped.namelist() if not name.endswith("/")]
    assert set(PLANTED).isdisjoint(names)
    assert {name.split("/")[0] for name in names} == {"lib", "rl", "gan", "jobs", "conf"}
    assert {"lib/tables/gold.py", "jobs/ray/train_gan.py", "conf/local.yaml", "gan/adverts/fonts/LICENSE"} <= set(names)


def test_git_ignores_a_key_wherever_it_lies() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", "lake.key", "conf/shop.key"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout.split() == ["lake.key", "conf/shop.key"]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all that the project needs and without the project itself.

    A folder that a .pth file names joins sys.path, but the .pth files in it, such as the one that finds the project, are not read.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def spark_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spark by links: a cluster of local processes leaves its work below its home."""
    folder = tmp_path_factory.mktemp("spark")
    for entry in Path(pyspark.__file__).parent.iterdir():
        if entry.name != "work":
            (folder / entry.name).symlink_to(entry)
    return folder


def run(arguments: list[str], python: Path, cwd: Path, **variables: str) -> str:
    """What a command prints in an environment in which `python` is the only one."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYSPARK", "SPARK"))
    }
    environment |= {"PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    environment |= {
        "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
    }  # short jobs: compiling further costs more than it brings
    done = subprocess.run(
        arguments, cwd=cwd, env=environment | variables, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_bare_python_has_the_dependencies_and_not_the_project(bare_python: Path, tmp_path: Path) -> None:
    asked = (
        "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('polars', 'pyspark', 'lib', 'rl', 'gan')])"
    )
    assert run([str(bare_python), "-c", asked], bare_python, tmp_path).strip() == "[True, True, False, False, False]"


def put_bronze(lake: Lake) -> None:
    """Three records of two people, as ingest leaves them."""
    source = contract("bronze/lines").with_source_columns(("user", "item", "time"))
    given = {"source_file": "a.csv", "source_file_sha256": "f", "batch_id": "b", "arrived_at": datetime.now(UTC)}
    records = [("ann@shop", "i1", "2024-01-01"), ("ann@shop", "i2", "2024-01-02"), ("bob@shop", "i1", "2024-01-03")]
    rows = (
        {"user": user, "item": item, "time": time, "record_number": number}
        for number, (user, item, time) in enumerate(records, 1)
    )
    put(lake, source, *rows, base=given)


@pytest.fixture(scope="module")
def submitted(
    package: Path, bare_python: Path, spark_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Clean by spark-submit with the zip, from a folder outside the checkout, on an executor of its own process."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for part in ("conf/spark-defaults.conf", "jobs/spark/clean.py"):
        (folder / part).parent.mkdir(parents=True)
        shutil.copy(ROOT / part, folder / part)
    (folder / "dist").mkdir()
    shutil.copy(package, folder / PACKAGE)
    (folder / "own.yaml").write_text(MAPPING)
    (folder / "probe.py").write_text(PROBE)
    (folder / "events").mkdir()
    lake = Lake(str(folder / "lake"))
    put_bronze(lake)
    flags = ["--lake.path", lake.path, "--log.format", "own.yaml", "--privacy.key-variable", "TEST_KEY"]
    submit, *rest = command(JOBS["clean"], "local", ClusterSettings(spark_master="local-cluster[1,1,1024]"), flags)
    rest[rest.index("jobs/spark/clean.py")] = "probe.py"
    logged = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": (folder / "events").as_uri(),
    }
    submit = str(Path(sys.executable).parent / submit)
    options = [part for name, value in logged.items() for part in ("--conf", f"{name}={value}")]
    printed = run([submit, *options, *rest], bare_python, folder, SPARK_HOME=str(spark_home), TEST_KEY=KEY)
    (places,) = (line for line in printed.splitlines() if line.startswith("PLACES "))
    said = [line for line in printed.splitlines() if not line.startswith("PLACES ")]
    return {"lake": lake, "folder": folder, "said": "\n".join(said)} | json.loads(places.removeprefix("PLACES "))


@pytest.mark.slow
def test_driver_and_executor_find_the_project_in_the_zip(submitted: dict[str, Any]) -> None:
    assert len(submitted["executors"]) == 1
    for place in (*submitted["driver"], *submitted["executors"]):
        assert place.endswith("/cartwheel.zip/lib/__init__.py")
    assert submitted["executors"] != submitted["driver"]


@pytest.mark.slow
def test_a_job_from_the_zip_writes_its_tables_and_is_the_same_code_as_in_the_checkout(
    submitted: dict[str, Any],
) -> None:
    lake: Lake = submitted["lake"]
    assert lake.num_rows("silver/events") == 3
    (row,) = history.runs(lake, "clean")
    assert (row["status"], row["code_version"]) == ("done", code_version(JOBS["clean"]))


@pytest.mark.slow
def test_neither_key_nor_id_stands_in_sparks_event_log_or_what_the_job_says(submitted: dict[str, Any]) -> None:
    logs = [file.read_text() for file in (submitted["folder"] / "events").rglob("*") if file.is_file()]
    assert any('"Event":"SparkListenerJobEnd"' in text for text in logs)
    assert "cleaned lines" in submitted["said"]
    for secret in (KEY, KEY.encode().hex(), "ann@shop", "bob@shop"):
        assert not any(secret in text for text in (*logs, submitted["said"], str(history.runs(submitted["lake"]))))
