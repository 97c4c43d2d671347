"""Finds the files of a log, and the source that each belongs to."""

from pathlib import PurePosixPath

import pyarrow.fs as pafs

from lib.formats.log_files import LogFile
from lib.formats.mapping import LogMapping
from lib.lake.places import filesystem_of


def find_files(log: str, mapping: LogMapping) -> tuple[list[LogFile], int]:
    """The files of a log (a folder, a file, or the URI of one), sorted by path, and the number of files of no source.

    Hidden files and folders (names that begin with `.` or `_`) are ignored.

    Raises:
        ValueError: there is no such log.
    """
    filesystem, root = filesystem_of(log)
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise ValueError(f"there is no log at {log}; set --log.path to its file or folder")
    if info.type == pafs.FileType.File:
        return _single_file(log, info, mapping)
    prefix = log.rstrip("/")
    files, num_strangers = [], 0
    for entry in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)):
        path = entry.path.removeprefix(root.rstrip("/") + "/")
        if not entry.is_file or any(part[0] in "._" for part in path.split("/")):
            continue
        match = mapping.source_of(path)
        if match:
            files.append(LogFile(f"{prefix}/{path}", path, entry.size, match.source, entry.mtime))
        num_strangers += match is None
    return sorted(files, key=lambda file: file.path), num_strangers


def _single_file(log: str, info: pafs.FileInfo, mapping: LogMapping) -> tuple[list[LogFile], int]:
    """A log that is a single file; the log folder is the nearest one above it from which a pattern matches."""
    parts = PurePosixPath(log).parts
    for start in range(len(parts) - 1, -1, -1):
        path = "/".join(parts[start:])
        match = mapping.source_of(path)
        if match:
            return [LogFile(log, path, info.size, match.source, info.mtime)], 0
    return [], 1
