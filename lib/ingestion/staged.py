"""What a run of ingest has read and written, and not committed: kept with the run, so that a kill loses none of it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deltalake.transaction import AddAction

from lib.formats.columns import stored_names
from lib.formats.reading import Inspection

FILE_NAME = "staged.json"


@dataclass(frozen=True)
class FoundFile:
    """A file of the log that was looked at: what was found in it (lib/formats/reading.py).

    `columns` are its columns in bronze. `sha256` is empty where it could not be read at all.
    """

    path: str
    source: str
    sha256: str
    columns: tuple[str, ...] = ()
    problem: str | None = None
    may_pass: bool = False
    notes: tuple[str, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()

    @classmethod
    def of(cls, path: str, source: str, sha256: str, found: Inspection) -> "FoundFile":
        """A file after it was read."""
        columns = stored_names(found.names)
        return cls(path, source, sha256, columns, found.problem, found.may_pass, found.notes, found.refused)

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> "FoundFile":
        """A file from its fields, where tuples are lists."""
        tuples = {name: tuple(content[name]) for name in ("columns", "notes")}
        return cls(**{**content, **tuples, "refused": tuple((number, why) for number, why in content["refused"])})


@dataclass(frozen=True)
class Staged:
    """Files that were read, files that were set aside, and the files of bronze that hold what was read, by table."""

    good: list[FoundFile]
    bad: list[FoundFile]
    written: dict[str, list[AddAction]]

    def keep(self, folder: Path) -> None:
        """Write it into a run's folder; it is there whole, or not at all."""
        unfinished = folder / f"{FILE_NAME}.unfinished"
        unfinished.write_text(json.dumps(asdict(self)))
        unfinished.rename(folder / FILE_NAME)

    @classmethod
    def kept(cls, folder: Path) -> "Staged | None":
        """What was kept in a run's folder, if it was."""
        if not (folder / FILE_NAME).exists():
            return None
        content = json.loads((folder / FILE_NAME).read_text())
        written = {table: [AddAction(**file) for file in files] for table, files in content["written"].items()}
        return cls(_found(content["good"]), _found(content["bad"]), written)


def _found(files: Iterable[Mapping[str, Any]]) -> list[FoundFile]:
    return [FoundFile.of_json(file) for file in files]
