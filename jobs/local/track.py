"""track: ops/models, gold/model_metrics -> MLflow: each model version with its settings, curves, metrics, inputs and files.

Versions that MLflow knows are left as they are, but for their status. A rerun, a retry or a kill changes nothing; an MLflow that
is away fails this job alone, and the next run sends what is missing.
"""

from pydantic import Field

from lib.runs.model_registry import models
from lib.runs.run import start_run
from lib.runs.tracking import local_store, track
from lib.settings import JobSettings


class TrackSettings(JobSettings):
    """Where MLflow is."""

    uri: str | None = Field(
        None,
        description="MLflow's tracking server, such as http://mlflow:5000, or a folder; unset: the folder `<lake>/files/mlflow`, "
        "where the lake is on a disk",
    )
    experiment: str = Field(
        "cartwheel", min_length=1, description="MLflow's name for the versions of this lake's models"
    )


def main(settings: TrackSettings) -> None:
    with start_run("track", settings) as run:
        if settings.uri is None and run.lake.is_remote:
            run.skip("track.uri names no MLflow server, and a store of files needs a lake on a disk")
        if not models(run.lake):
            run.skip("no model has been trained")
        uri = settings.uri or local_store(run.lake).as_uri()
        new, changed = track(run.lake, uri=uri, experiment=settings.experiment)
        run.log("recorded", versions=new, of_other_status=changed, at=uri)


if __name__ == "__main__":
    main(TrackSettings.from_command_line())
