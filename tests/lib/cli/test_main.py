"""The command line in this process: what it prints and its exit code. But for one submitted job, jobs end before they start Spark or Ray."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from deltalake import DeltaTable

from lib.cli.main import main
from lib.cli.submit import PACKAGE
from lib.lake.lake import Lake
from lib.pipeline import JOBS, ROOT
from lib.runs import history
from lib.runs.freshness import code_version
from tests.lakes import put

ITEMS = [
    {"item_id": "i1", "title": "Lamp [red] [/b]", "category": ["home", "light"]},
    {"item_id": "i2", "title": "Mug"},
]
Cartwheel = Callable[..., tuple[int, str]]


@pytest.fixture
def cartwheel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cartwheel:
    """`cartwheel("tables", "--lake", "x")` returns the exit code and what was printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cartwheel", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A lake with two products."""
    put(Lake(str(tmp_path / "lake")), "silver/items", *ITEMS)
    return tmp_path / "lake"


def one_line(printed: str) -> str:
    (line,) = printed.splitlines()
    return line


def test_the_tables_are_listed_with_their_rows_and_what_a_row_is(cartwheel: Cartwheel, lake: Path) -> None:
    code, printed = cartwheel("tables", "--lake", lake)
    assert code == 0
    heading, row = (line.split(maxsplit=2) for line in printed.splitlines())
    assert [word.strip() for word in heading] == ["table", "rows", "one row is"]
    assert row[:2] == ["silver/items", "2"]
    assert row[2].strip() == DeltaTable(lake / "silver" / "items").metadata().description


def test_a_table_is_described_without_a_lake(cartwheel: Cartwheel, tmp_path: Path) -> None:
    code, printed = cartwheel("tables", "gold/recommendations", "--lake", tmp_path / "none")
    assert code == 0
    assert "key: as_of, strategy, question, user_key, rank" in printed
    columns = [line.split(maxsplit=2)[:2] for line in printed.splitlines() if line.startswith(" ")][1:]
    assert columns == [
        *(["as_of", "timestamp[us,"], ["strategy", "string"], ["question", "string"], ["user_key", "string"]),
        *(["rank", "int32"], ["item_id", "string"], ["score", "double"], ["reason", "string"]),
        *(["model", "string"], ["version", "string"]),
    ]
    assert not (tmp_path / "none").exists()


def test_a_table_that_no_contract_names_is_one_line(cartwheel: Cartwheel, lake: Path) -> None:
    code, printed = cartwheel("tables", "gold/recomendations", "--lake", lake)
    assert code == 2
    assert one_line(printed).startswith("error  no table is named 'gold/recomendations'; known are")


def test_a_query_prints_values_as_they_are(cartwheel: Cartwheel, lake: Path) -> None:
    code, printed = cartwheel("query", "SELECT title, category FROM silver.items ORDER BY item_id", "--lake", lake)
    assert code == 0
    assert [line.strip() for line in printed.splitlines()[1:]] == ["Lamp [red] [/b]  ['home', 'light']", "Mug"]


def test_a_long_value_is_not_cut_in_a_narrow_terminal(
    cartwheel: Cartwheel, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, printed = cartwheel("query", f"SELECT '{'x' * 90}' AS long, item_id FROM silver.items", "--lake", lake)
    assert printed.count("x") == 2 * 90


def test_a_query_prints_so_many_rows_or_all_as_csv(cartwheel: Cartwheel, lake: Path) -> None:
    sql = "SELECT item_id, title FROM silver.items ORDER BY 1"
    _, printed = cartwheel("query", sql, "--lake", lake, "--limit", 1)
    assert [line.split() for line in printed.splitlines()] == [["item_id", "title"], ["i1", "Lamp", "[red]", "[/b]"]]
    assert cartwheel("query", sql, "--lake", lake, "--limit", 1, "--csv")[1].splitlines() == [
        "item_id,title",
        "i1,Lamp [red] [/b]",
        "i2,Mug",
    ]


@pytest.mark.parametrize("sql", ["DELETE FROM silver.items", "SELECT [/b] FROM nowhere"])
def test_a_query_that_is_wrong_or_none_is_one_line_and_changes_nothing(
    cartwheel: Cartwheel, lake: Path, sql: str
) -> None:
    code, printed = cartwheel("query", sql, "--lake", lake)
    assert code == 2
    assert one_line(printed).startswith("error  ")
    assert Lake(str(lake)).num_rows("silver/items") == 2


def test_the_report_prints_where_its_page_is(cartwheel: Cartwheel, lake: Path, tmp_path: Path) -> None:
    assert cartwheel("report", "--lake", lake) == (0, f"{lake}/files/report/index.html\n")
    assert cartwheel("report", "--lake", lake, "--out", tmp_path / "page.html") == (0, f"{tmp_path}/page.html\n")
    assert (tmp_path / "page.html").read_text() == (lake / "files" / "report" / "index.html").read_text()


@pytest.mark.parametrize("command", [["tables"], ["query", "SELECT 1"], ["report"]])
def test_a_lake_that_is_none_is_one_line_and_nothing_is_made(
    cartwheel: Cartwheel, tmp_path: Path, command: list[str]
) -> None:
    code, printed = cartwheel(*command, "--lake", tmp_path / "lak")
    assert code == 2
    assert one_line(printed).startswith(f"error  --lake {tmp_path}/lak: there is no table; `cartwheel run")
    assert not (tmp_path / "lak").exists()


@pytest.mark.slow
def test_a_job_submitted_on_this_machine_runs_as_the_code_that_lies_here(cartwheel: Cartwheel, lake: Path) -> None:
    (ROOT / PACKAGE).unlink(missing_ok=True)
    code, _ = cartwheel("submit", "experiment", "--lake.path", lake, "--cluster.driver-memory", "1g")
    assert code == 0
    (run,) = history.runs(Lake(str(lake)), "experiment")
    assert (run["status"], run["code_version"]) == ("skipped", code_version(JOBS["experiment"]))
    assert (ROOT / PACKAGE).is_file()


@pytest.mark.bad_input("no Ray cluster at the given address")
def test_a_ray_job_submitted_to_no_cluster_is_one_line_and_exit_code_1(cartwheel: Cartwheel) -> None:
    code, printed = cartwheel("submit", "train_encoder", "--cluster.ray-address", "http://127.0.0.1:9")
    assert code == 1
    assert one_line(printed) == "error  no Ray job server answers at http://127.0.0.1:9 (ConnectionError)"


def test_a_dry_run_prints_the_command_and_nothing_else(cartwheel: Cartwheel) -> None:
    assert cartwheel("submit", "clean", "--dry-run", "--lake.path", "/mnt/my lake") == (
        0,
        "spark-submit --master 'local[2]' --properties-file conf/spark-defaults.conf --py-files dist/cartwheel.zip "
        "jobs/spark/clean.py --lake.path '/mnt/my lake'\n",
    )
    given = ["--on", "standalone", "--cluster.ray-address", "http://head:8265", "--cluster.num-workers", "8"]
    of_another = ["--als.rank", "8"]
    assert cartwheel("submit", "train_encoder", *given, *of_another, "--dry-run") == (
        0,
        "ray job submit --address http://head:8265 --working-dir . -- python jobs/ray/train_encoder.py "
        "--cluster.num-workers 8\n",
    )


def test_on_kubernetes_a_dry_run_prints_the_manifest_or_the_command(cartwheel: Cartwheel) -> None:
    given = ("submit", "als", "--on", "kubernetes", "--kubernetes.namespace", "shop", "--als.rank", "8", "--dry-run")
    code, printed = cartwheel(*given)
    manifest = yaml.safe_load(printed)
    assert (code, manifest["kind"], manifest["metadata"]["namespace"]) == (0, "SparkApplication", "shop")
    assert manifest["spec"]["arguments"][-2:] == ["--als.rank", "8"]
    code, printed = cartwheel(*given, "--with", "spark-submit")
    assert code == 0
    assert printed.startswith("spark-submit --master k8s://https://API-SERVER --deploy-mode cluster --name als-")


LIVE = ("--live.kafka", "kafka:9092", "--live.state", "redis://redis:6379/0")


def test_on_kubernetes_the_live_parts_have_a_manifest_too(cartwheel: Cartwheel, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("clean: {session_gap_minutes: 45}\nserve: {token_variable: TOKENS}\n")
    given = ("--on", "kubernetes", "--config", str(file), *LIVE, "--dry-run")
    code, printed = cartwheel("submit", "stream", *given)
    manifest = yaml.safe_load(printed)
    assert (code, manifest["kind"], manifest["spec"]["restartPolicy"]["type"]) == (0, "SparkApplication", "Always")
    assert "--clean.session-gap-minutes=45" in manifest["spec"]["arguments"], "of a job that it runs itself"
    code, printed = cartwheel("submit", "serve", *given)
    manifest = yaml.safe_load(printed)
    assert (code, manifest["kind"]) == (0, "RayService")
    assert "- --serve.token-variable=TOKENS" in printed, "readable: a manifest in a manifest"
    code, printed = cartwheel("submit", "stream", *given, "--stream.available-now", "true")
    assert yaml.safe_load(printed)["spec"]["restartPolicy"]["type"] == "OnFailure"


@pytest.mark.bad_input("a live part that lacks something on Kubernetes")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["stream"],
            "stream on Kubernetes needs the live log: set live.kafka to Kafka's bootstrap servers, or log.path",
        ),
        (["stream", *LIVE[:2]], "stream on Kubernetes keeps the online state in a Redis: set live.state"),
        (["stream", *LIVE, "--schedule", "0 3 * * *"], "stream goes on until it is cancelled"),
        (["stream", *LIVE, "--with", "spark-submit"], "nothing would start it again: use --with operator"),
        (["serve"], "serve on Kubernetes needs the live log: set live.kafka to Kafka's bootstrap servers"),
        (["serve", *LIVE[:2]], "serve on Kubernetes keeps the online state in a Redis: set live.state"),
        (
            ["serve", *LIVE, "--live.kafka-protocol", "SSL", "--live.kafka-ca", "ca.pem"],
            "live.kafka_ca: no pod has that file",
        ),
        (["serve", *LIVE], "serve on Kubernetes answers nobody without tokens: name the Secret's key"),
        (["serve", *LIVE, "--serve.token-file", "tokens"], "serve on Kubernetes has no file of tokens"),
        (["serve", *LIVE, "--serve.token-variable", "T", "--serve.port", "80"], "listens at port 8000 of its Service"),
        (["serve", *LIVE, "--serve.token-variable", "T", "--wait"], "there is nothing to --wait for"),
    ],
)
def test_what_a_live_part_lacks_on_kubernetes_is_one_line(
    cartwheel: Cartwheel, arguments: list[str], told: str
) -> None:
    code, printed = cartwheel("submit", *arguments, "--on", "kubernetes", "--dry-run")
    assert code == 2
    assert told in one_line(printed)


@pytest.mark.parametrize(
    "command", [["submit", "als", "--on", "kubernetes"], ["status"], ["logs", "x"], ["cancel", "x"]]
)
def test_without_a_cluster_or_an_answer_from_it_there_is_one_line(
    command: list[str], cartwheel: Cartwheel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    code, printed = cartwheel(*command)
    assert code == 2
    assert one_line(printed).startswith("error  no cluster is known: set KUBECONFIG to a file that names one")
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    known = {"clusters": [cluster], "contexts": [context], "users": users, "current-context": "c"}
    (tmp_path / "none").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **known}))
    code, printed = cartwheel(*command)
    assert code == 1
    assert one_line(printed).startswith("error  no API server answers at http://127.0.0.1:9: ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["submit", "als", "--on", "kubernetes", "--als.rnak", "8"], "unrecognized arguments: --als.rnak 8"),
        (["submit", "als", "--on", "kubernetes", "--cleen.x", "1"], "--cleen.x: no job or section is named 'cleen'"),
        (["submit", "als", "--on", "kubernetes", "--with", "luck"], "--with luck: should be operator or spark-submit"),
        (["submit", "report", "--on", "kubernetes", "--with", "spark-submit"], "--with spark-submit starts Spark jobs"),
        (["submit", "cleen"], "no job is named 'cleen'; the jobs are simulate, ingest, clean,"),
        (["submit", "clean", "--on", "mars"], "--on mars: should be local, standalone or kubernetes"),
        (["submit", "als", "--on", "standalone"], "--on standalone needs --cluster.spark-master spark://"),
        (["run", "--from", "cleen"], "no job is named 'cleen'; the jobs are simulate, ingest, clean,"),
        (["run", "--logs", "nowhere"], "--logs nowhere: no such file or folder"),
        (
            ["run", "--to", "ingest", "--clean.x", "1", "--cleen.x", "1"],
            "--cleen.x: no job or section is named 'cleen'",
        ),
        (["run", "--to", "ingest", "--ingest.x", "1"], "unrecognized arguments: --ingest.x 1"),
        (["run", "--to", "ingest", "--ingest.task-megabytes", "0"], "ingest.task_megabytes = '0': should be greater"),
        (["run", "--to", "ingest", "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["run", "--to", "ingest", "--lake", "s3a://bucket/lake"], "--lake s3a://bucket/lake: should be a folder"),
        (["run", "--to", "ingest", "--lake", ""], "--lake : should be a folder or .*; nothing was given"),
        (["run", "--to", "ingest", "--lake", "/tmp/a%20b"], "--lake /tmp/a%20b: should not hold '%20'"),
        (["tables", "--lake", "gs://bucket/lake"], "--lake gs://bucket/lake: should be a folder"),
        (["query", "SELECT 1", "--lake", "abfss://c@a/lake"], "--lake abfss://...@a/lake: should be a folder"),
        (["report", "--lake", "file:///lake"], "--lake file:///lake: should be a folder .*give the folder's path"),
    ],
)
def test_what_a_user_got_wrong_is_one_line_and_exit_code_2_before_anything_starts(
    cartwheel: Cartwheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = cartwheel(*arguments)
    assert code == 2
    assert re.search(told, one_line(printed))
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_refuses_the_log_is_one_line_with_the_path_of_the_log_and_exit_code_4(
    cartwheel: Cartwheel, tmp_path: Path
) -> None:
    (tmp_path / "log").mkdir()
    lake = tmp_path / "lake"
    code, printed = cartwheel("run", "--logs", tmp_path / "log", "--format", "otto", "--lake", lake, "--to", "clean")
    assert code == 4
    begun, failed, log = printed.splitlines()
    assert begun.startswith("[1/2] ingest: ")
    assert failed == f"failed  ingest: none of the 0 files of {tmp_path / 'log'} matches a pattern of otto: *.jsonl"
    assert "Traceback" in Path(log.removeprefix("all output: ")).read_text()


@pytest.mark.bad_input("a wrong format name")
def test_a_wrong_format_name_lists_the_shipped_ones_and_changes_no_table(
    cartwheel: Cartwheel, lake: Path, tmp_path: Path
) -> None:
    before = Lake(str(lake)).tables()
    code, printed = cartwheel("run", "--logs", tmp_path, "--format", "oto", "--lake", lake, "--to", "clean")
    assert code == 2
    assert one_line(printed).startswith(
        "error  unknown format 'oto'; shipped are ga4, market, movielens, obd, online_retail, otto, rees46"
    )
    assert Lake(str(lake)).tables() == before


def test_the_shipped_mappings_are_listed_and_shown(cartwheel: Cartwheel) -> None:
    code, printed = cartwheel("formats")
    assert code == 0
    assert "UCI" in next(line for line in printed.splitlines() if line.strip().startswith("online_retail"))
    code, printed = cartwheel("formats", "otto")
    assert (code, printed) == (0, (ROOT / "conf/formats/otto.yaml").read_text())
    code, printed = cartwheel("formats", "oto")
    assert (code, one_line(printed)[:30]) == (2, "error  unknown format 'oto'; s")


def test_a_mapping_is_tried_on_a_file_and_proposed_for_one_that_none_knows(
    cartwheel: Cartwheel, tmp_path: Path
) -> None:
    (tmp_path / "events.csv").write_text("timestamp,visitorid,event,itemid,transactionid\n1433221332117,1,view,7,\n")
    code, printed = cartwheel("formats", "--try", tmp_path / "events.csv")
    assert code == 0
    assert printed.startswith("The shipped mapping retailrocket reads it: --format retailrocket.")
    (tmp_path / "own.csv").write_text("user;article;when\nann;lamp;31.12.2024\n")
    code, printed = cartwheel("formats", "--try", tmp_path / "own.csv")
    assert code == 0
    assert printed.startswith("No shipped mapping reads it.")
    assert 'time_format: "%d.%m.%Y"' in printed
    assert "1 accepted" in printed
    code, printed = cartwheel("formats", "--try", tmp_path / "own.csv", "--format", "otto")
    assert (code, "no file matches a pattern of otto" in one_line(printed)) == (2, True)
    code, printed = cartwheel("formats", "--try", tmp_path / "absent.csv")
    assert (code, "no such file or folder" in one_line(printed)) == (2, True)


def test_a_lake_is_maintained_by_one_command(cartwheel: Cartwheel, lake: Path) -> None:
    code, printed = cartwheel("maintain", "--lake", lake, "--maintain.retention-hours", "48")
    assert code == 0
    assert "maintained all  tables=" in printed
    assert history.last_run(Lake(str(lake)), "maintain")["status"] == "done"


@pytest.mark.bad_input("an unwritable lake")
def test_a_lake_that_cannot_be_written_ends_a_walk_with_one_line(cartwheel: Cartwheel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, printed = cartwheel("run", "--logs", tmp_path, "--lake", tmp_path / "file" / "lake", "--to", "ingest")
    assert code == 2
    assert one_line(printed) == f"error  the lake {tmp_path}/file/lake cannot be written: Not a directory"


@pytest.mark.bad_input("a backfill of days in the wrong order")
def test_a_backfill_of_days_in_the_wrong_order_is_told_in_one_line(cartwheel: Cartwheel, lake: Path) -> None:
    code, printed = cartwheel("run", "--lake", lake, "--from-date", "2024-03-05", "--to-date", "2024-03-03")
    assert code == 2
    assert "time.to_date = '2024-03-03': should not be before from_date, 2024-03-05" in one_line(printed)


def test_a_backfill_begins_at_clean_and_needs_records(cartwheel: Cartwheel, lake: Path) -> None:
    code, printed = cartwheel(
        "run", "--lake", lake, "--from-date", "2024-03-01", "--to-date", "2024-03-03", "--to=clean"
    )
    assert "[1/1] clean" in printed
    assert code == 4
    assert "run ingest with it first" in printed
