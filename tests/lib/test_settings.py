import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from lib.pipeline import ROOT
from lib.settings import JobSettings, kubernetes_settings


class FeaturizeSettings(JobSettings):
    """How users are described."""

    prior_views: float = Field(20, gt=0, description="imagined views")
    half_life_days: int = Field(30, ge=1, description="age at which an interest weighs half")


def write(folder: Path, text: str) -> str:
    file = folder / "settings.yaml"
    file.write_text(text)
    return str(file)


def test_a_flag_overrides_the_environment_which_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, "featurize: {prior_views: 1, half_life_days: 2}\nlake: {path: from_file}\n")
    monkeypatch.setenv("CARTWHEEL_FEATURIZE__HALF_LIFE_DAYS", "3")
    monkeypatch.setenv("CARTWHEEL_LAKE__PATH", "from_environment")

    settings = FeaturizeSettings.load(["--config", config, "--lake.path", "from_flag"])

    assert (settings.prior_views, settings.half_life_days, settings.lake.path) == (1, 3, "from_flag")


def test_a_flag_may_be_written_in_kebab_or_snake_case() -> None:
    assert FeaturizeSettings.load(["--featurize.prior-views", "5"]).prior_views == 5
    assert FeaturizeSettings.load(["--featurize.prior_views=5"]).prior_views == 5


@pytest.mark.bad_input("an impossible value")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--featurize.prior-views", "0"], r"featurize.prior_views = '0': should be greater than 0"),
        (["--featurize.prior-vews", "2"], r"--featurize.prior-vews"),
        (["--time.as-of", "2011-11-09"], r"time.as_of = '2011-11-09': should be test_from"),
        (["--config", "absent.yaml"], r"absent.yaml: no such file"),
    ],
)
def test_an_impossible_setting_is_told_in_one_line(arguments: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        FeaturizeSettings.load(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.bad_input("an unknown setting")
def test_a_command_of_no_job_tells_a_wrong_setting_alike() -> None:
    with pytest.raises(ValueError) as refused:
        kubernetes_settings(["--kubernetes.cpu-frac", "9"])
    assert str(refused.value) == "kubernetes.cpu_frac = '9': should be less than or equal to 4"


def test_an_unknown_key_in_the_file_names_the_known_ones(tmp_path: Path) -> None:
    config = write(tmp_path, "featurize: {prior_vews: 1}")
    with pytest.raises(ValueError, match=r"unknown setting featurize.prior_vews; known .* prior_views, half_life_days"):
        FeaturizeSettings.load(["--config", config])


def test_a_section_that_names_no_job_is_refused_in_the_file_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="'featurise'"):
        FeaturizeSettings.load(["--config", write(tmp_path, "featurise: {prior_views: 1}")])
    monkeypatch.setenv("CARTWHEEL_FEATURISE__PRIOR_VIEWS", "1")
    with pytest.raises(ValueError, match="CARTWHEEL_FEATURISE__PRIOR_VIEWS"):
        FeaturizeSettings.load([])


def test_another_jobs_section_is_left_to_that_job(tmp_path: Path) -> None:
    assert FeaturizeSettings.load(["--config", write(tmp_path, "clean: {whatever: 1}")]).prior_views == 20


def test_moving_the_lake_keeps_the_hash_and_changing_a_value_changes_it() -> None:
    here, there = FeaturizeSettings(), FeaturizeSettings(lake={"path": "elsewhere"})
    assert here.hash() == there.hash()
    assert here.hash() != FeaturizeSettings(prior_views=3).hash()
    assert here.hash() != FeaturizeSettings(time={"as_of": "end"}).hash()


def test_a_wrong_setting_ends_a_job_with_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        FeaturizeSettings.from_command_line(["--featurize.prior-views", "many"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.bad_input("a lake at an address that not every engine reads")
@pytest.mark.parametrize("scheme", ["s3a", "s3n", "gs", "abfss", "hdfs", "S3", "dbfs", "file"])
@pytest.mark.parametrize("form", ["{}://bucket/lake", "{}:///bucket/lake", "{}:/bucket/lake"])
def test_a_lake_at_an_address_is_refused_in_one_line(scheme: str, form: str) -> None:
    with pytest.raises(ValueError, match=r"^lake\.path = .*: should be a folder or s3://bucket/folder, ") as error:
        FeaturizeSettings.load(["--lake.path", form.format(scheme)])
    assert "\n" not in str(error.value)


@pytest.mark.bad_input("a lake at an address that not every engine reads")
@pytest.mark.parametrize(
    "address",
    [
        "s3:/b/lake",
        "s3:///lake",
        "s3://bucket",
        "s3://Bucket/lake",
        "s3://bucket/a b",
        "s3://bucket//lake",
        "s3://b?c/d",
    ],
)
def test_an_address_of_another_form_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(ValueError, match=r"^lake\.path = .*: should be s3://bucket/folder, ") as error:
        FeaturizeSettings.load(["--lake.path", address])
    assert "\n" not in str(error.value)


def test_credentials_in_an_address_are_refused_and_not_said_again() -> None:
    with pytest.raises(ValueError, match="should hold no credentials") as error:
        FeaturizeSettings.load(["--lake.path", "s3://key:secret@bucket/lake"])
    assert "secret" not in str(error.value)
    assert FeaturizeSettings.load(["--lake.path", "s3://bucket/shops/lake"]).lake.path == "s3://bucket/shops/lake"


@pytest.mark.bad_input("a lake whose path Delta reads otherwise")
@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "a%2fb", "a\\b", "a\tb", "a\x7fb"])
def test_a_lake_whose_path_delta_reads_otherwise_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="should not hold") as error:
        FeaturizeSettings.load([f"--lake.path=/tmp/{name}"])
    assert "\n" not in str(error.value)


def test_a_lake_in_such_a_folder_is_refused_by_its_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "#1").mkdir()
    monkeypatch.chdir(tmp_path / "#1")
    for arguments in ([], ["--lake.path", "lake"]):
        with pytest.raises(ValueError, match=f"should not hold '#', .* \\(it is in {tmp_path}/#1/lake\\)"):
            FeaturizeSettings.load(arguments)


def test_a_log_may_be_at_an_address_or_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert FeaturizeSettings.load(["--log.path", "s3://bucket/logs"]).log.path == "s3://bucket/logs"
    assert FeaturizeSettings.load(["--log.path", "~/logs #1"]).log.path == "/home/ann/logs #1"


@pytest.mark.bad_input("a broken settings file")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"clean: {", r"settings.yaml is no YAML: while parsing .* line 1"),
        (b"lake: [\n- a\n: b", r"settings.yaml is no YAML: "),
        (b"\tlake: x", r"settings.yaml is no YAML: "),
        (b"lake: !!python/name:os.system {}", r"settings.yaml is no YAML: "),
        (b"lake: {path: caf\xe9}", r"settings.yaml is no UTF-8 text \(byte 17\)"),
        (b"\xff\xfel\0", r"settings.yaml is no UTF-8 text"),
        (b"just words", r"settings.yaml: expected sections such as"),
        (b"lake: 3", r"lake = 3: "),
        (b"lake: {path: [a]}", r"lake.path = \['a'\]: "),
        (b"1: {}", r"no job or section is named 1"),
    ],
)
def test_a_settings_file_that_is_broken_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, told: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        FeaturizeSettings.from_command_line(["--config", str(file)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(told, line)


def test_a_settings_file_that_is_a_folder_and_a_mapping_that_is_no_text_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder, not a file"):
        FeaturizeSettings.load(["--config", str(tmp_path)])
    (tmp_path / "map.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ValueError, match=r"map.yaml is no UTF-8 text \(byte 10\)"):
        FeaturizeSettings.load(["--log.format", str(tmp_path / "map.yaml")])
    with pytest.raises(ValueError, match="unknown format 'oto'"):
        FeaturizeSettings.load(["--log.format", "oto"])


@pytest.mark.parametrize(
    ("raised", "told", "code"),
    [
        ("ValueError('3 of 9 records have no time')", "error: 3 of 9 records have no time", 4),
        ("SettingError('no key')", "error: no key", 2),
        ("RetryableError('another run')", "error: another run", 1),
        ("KeyError('x')", r"error: KeyError: 'x' \(traceback: .*cartwheel-.*\.txt\)", 1),
        ("SystemExit(3)", "", 3),
    ],
)
def test_a_job_ends_with_one_line_and_the_code_of_its_error(raised: str, told: str, code: int) -> None:
    script = (
        "from lib.settings import JobSettings, kubernetes_settings\n"
        "from lib.runs.errors import RetryableError, SettingError\n"
        "class FeaturizeSettings(JobSettings):\n    'x'\n"
        f"FeaturizeSettings.from_command_line([])\nraise {raised}"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert len(ended.stderr.splitlines()) == bool(told)
    assert re.fullmatch(told, ended.stderr.strip())
