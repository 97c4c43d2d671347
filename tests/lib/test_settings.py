from pathlib import Path

import pytest
from pydantic import Field

from lib.settings import JobSettings


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
