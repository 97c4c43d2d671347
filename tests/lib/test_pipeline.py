import pytest

from lib.cli.docs import main as docs_main
from lib.cli.jobs import arguments_of, names_between, settings_class
from lib.pipeline import JOBS, PIPELINE, ROOT, all_jobs_before, jobs_before
from lib.tables import TABLES


def test_each_job_reads_only_what_earlier_ones_write() -> None:
    written: set[str] = set()
    for job in PIPELINE:
        assert {*job.reads, *job.may_read} - {"*"} <= written, job.name
        written |= set(job.writes)


def test_as_a_graph_a_job_follows_those_that_write_or_train_what_it_uses_and_none_twice() -> None:
    assert jobs_before(JOBS["ingest"]) == []
    assert jobs_before(JOBS["experiment"]) == ["clean"]
    assert jobs_before(JOBS["train_encoder"]) == ["als"]  # both write gold/vectors
    assert jobs_before(JOBS["train_sequence"]) == ["sessions", "train_encoder"]
    assert jobs_before(JOBS["train_content"]) == ["train_sequence"]
    assert jobs_before(JOBS["train_ranker"]) == ["train_content"]  # and through it all that write vectors
    assert jobs_before(JOBS["recommend"]) == ["train_ranker"]  # whose model it uses
    assert jobs_before(JOBS["make_creatives"]) == ["recommend", "train_gan"]  # the lists' items, and the generator
    assert jobs_before(JOBS["publish"]) == ["train_policy", "make_creatives"]  # and through these all that lists need
    assert jobs_before(JOBS["report"]) == ["evaluate", "train_policy", "experiment", "make_creatives"]
    assert all_jobs_before(JOBS["report"]) == {job.name for job in PIPELINE} - {
        "simulate",
        "publish",
        "track",
        "report",
    }


def test_every_table_has_a_writer_and_every_job_a_file() -> None:
    written = {table for job in JOBS.values() for table in job.writes}
    assert {name for name in TABLES if not name.startswith("ops/")} - {"bronze/source"} == written - {"bronze/*"}
    declared = {str(job.path) for job in JOBS.values()}
    assert declared == {str(file.relative_to(ROOT)) for file in (ROOT / "jobs").rglob("*.py")}


def test_a_flag_goes_to_the_jobs_it_bears_on() -> None:
    flags = ["--lake.path", "x", "--clean.session-gap-minutes", "45", "--train_gan.seed=3", "--as-of", "end"]
    assert arguments_of(JOBS["clean"], flags) == [
        "--lake.path",
        "x",
        "--clean.session-gap-minutes",
        "45",
        "--as-of",
        "end",
    ]
    assert arguments_of(JOBS["train_gan"], flags) == ["--lake.path", "x", "--train_gan.seed=3", "--as-of", "end"]
    with pytest.raises(ValueError, match="'cleen'"):
        arguments_of(JOBS["clean"], ["--cleen.x", "1"])


def test_a_walk_may_begin_and_end_anywhere() -> None:
    assert names_between("evaluate", "train_policy") == ["evaluate", "decisions", "train_policy"]
    with pytest.raises(ValueError, match="'evaluat'"):
        names_between("evaluat", None)


def test_the_generated_pages_are_not_stale() -> None:
    assert docs_main(check=True) == 0


@pytest.mark.parametrize("file", ["local.yaml", "cluster.yaml"])
def test_every_settings_file_is_loaded_by_every_jobs_class(file: str) -> None:
    for job in JOBS.values():
        assert settings_class(job).load(["--config", str(ROOT / "conf" / file)]).lake.path
