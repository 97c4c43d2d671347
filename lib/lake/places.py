"""Places: a folder of a file system, or the address of an object store that speaks S3.

A store's credentials, endpoint and region come from the environment alone, under the names that AWS's own tools, delta-rs and
Hadoop share: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, AWS_REGION; without keys there,
from the role that the machine or pod has. They stand in no setting, plan or log.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from lib.runs.errors import STORE_IS_FULL, STORE_TROUBLE, RetryableError, SettingError

STORE = "s3://"
VARIABLES = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
CONNECT_SECONDS, REQUEST_SECONDS, MAX_ATTEMPTS = 5, 60, 3
# What a store's error says -> what a person is told, and whether it may pass by itself.
REFUSALS = (
    (r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|INVALID_SIGNATURE", "the store knows no such key, or the secret is not the key's: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", False),
    (r"NO_SUCH_BUCKET|NoSuchBucket|RESOURCE_NOT_FOUND", "there is no such bucket at this endpoint", False),
    (r"ACCESS_DENIED|AccessDenied|Forbidden|HTTP status 403", "the store denies access: the key may not do this to the bucket", False),
    (STORE_TROUBLE, STORE_IS_FULL, True),
    (r"NETWORK_CONNECTION|REQUEST_TIMEOUT|[Cc]onnect|[Tt]imeout|timed out|resolve host", "the store does not answer: is AWS_ENDPOINT_URL right, and is it up?", True),
)  # fmt: skip


def is_address(location: str) -> bool:
    """Whether a location is an address rather than a path."""
    return "://" in location


def filesystem_of(location: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or an address, and the path in it."""
    if location.startswith(STORE) and "?" not in location:
        return _store(), location.removeprefix(STORE).rstrip("/")
    if is_address(location):
        filesystem, path = pafs.FileSystem.from_uri(location)
        return filesystem, path
    return pafs.LocalFileSystem(), str(Path(location).absolute())


def storage_options(location: str) -> dict[str, str] | None:
    """What delta-rs must be told of a store beside the environment; None for a path."""
    if not location.startswith(STORE):
        return None
    own = endpoint()
    given = {"aws_endpoint_url": own, "aws_allow_http": "true"} if own else {}
    return given | {"aws_region": region(), "connect_timeout": f"{CONNECT_SECONDS}s"}


def endpoint() -> str | None:
    """The store's address, if it is not Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def region() -> str:
    """The store's region."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def require_answer(location: str, probe: str) -> None:
    """Write a small file of the name `probe` below the location, and remove it.

    Raises:
        SettingError, RetryableError: the store does not let it; one line says why.
    """
    filesystem, root = filesystem_of(location)
    try:
        with filesystem.open_output_stream(f"{root}/{probe}") as stream:
            stream.write(b"writable")
        filesystem.delete_file(f"{root}/{probe}")
    except OSError as error:
        raise refusal(location, error) from None


def refusal(location: str, error: OSError) -> SettingError | RetryableError:
    """An error of a store, as a person is told of it."""
    for pattern, told, may_pass in REFUSALS:
        if re.search(pattern, str(error)):
            return (RetryableError if may_pass else SettingError)(f"{location}: {told}")
    return RetryableError(f"{location}: {' '.join(str(error).split())[:300]}")


def names_in(location: str) -> list[str]:
    """The names of what lies in a folder, sorted; none where there is no folder.

    Raises:
        SettingError, RetryableError: a store does not let it be listed.
    """
    return sorted(info.base_name for info in _listed(location))


def make_folder(location: str) -> None:
    """Make a folder where there is none; on a store it is an empty object, by which others see a folder there.

    Raises:
        SettingError, RetryableError: a store does not let it be made.
    """
    filesystem, path = filesystem_of(location)
    try:
        if filesystem.get_file_info(path).type != pafs.FileType.Directory:
            filesystem.create_dir(path, recursive=True)
    except OSError as error:
        raise (refusal(location, error) if is_address(location) else error) from None


def newest_in(location: str, suffix: str) -> tuple[str, int] | None:
    """Of the files in a folder with that suffix the last by name, and its time in nanoseconds; None where there is none.

    Raises:
        SettingError, RetryableError: a store does not let it be listed.
    """
    files = ((info.base_name, info.mtime_ns) for info in _listed(location) if info.base_name.endswith(suffix))
    return max(files, default=None)


def _listed(location: str) -> list[pafs.FileInfo]:
    filesystem, root = filesystem_of(location)
    try:
        found: list[pafs.FileInfo] = filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True))
    except OSError as error:
        raise (refusal(location, error) if is_address(location) else error) from None
    return found


def download(location: str, path: Path) -> None:
    """Make a local copy of a file or folder of a store; what is there unchanged is not read again."""
    filesystem, root = filesystem_of(location)
    for info in _files_at(filesystem, root):
        target = path / info.path.removeprefix(root).lstrip("/") if info.path != root else path
        if not _is_same(target, info):
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f".{target.name}.{os.getpid()}")
            pafs.copy_files(info.path, str(unfinished), source_filesystem=filesystem)
            _mark_as_same(unfinished, info)
            unfinished.replace(target)


def upload(path: Path, location: str) -> None:
    """Bring a local file or folder into a store; what is there unchanged is not written again."""
    filesystem, root = filesystem_of(location)
    there = {info.path: info for info in _files_at(filesystem, root)}
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        target = root if file == path else f"{root}/{file.relative_to(path).as_posix()}"
        if target not in there or not _is_same(file, there[target]):
            pafs.copy_files(str(file), target, destination_filesystem=filesystem)
            _mark_as_same(file, filesystem.get_file_info(target))


def _files_at(filesystem: pafs.FileSystem, root: str) -> Iterator[pafs.FileInfo]:
    """The file `root`, or the files below the folder `root`."""
    own = filesystem.get_file_info(root)
    if own.is_file:
        yield own
        return
    below = filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    yield from (info for info in below if info.is_file)


def _is_same(path: Path, info: pafs.FileInfo) -> bool:
    """Whether a local file is the copy that was made of a store's, or of which the store's was made."""
    if not path.is_file():
        return False
    held = path.stat()
    return bool(held.st_size == info.size and held.st_mtime_ns == info.mtime_ns)


def _mark_as_same(path: Path, info: pafs.FileInfo) -> None:
    os.utime(path, ns=(info.mtime_ns, info.mtime_ns))


def _store() -> pafs.S3FileSystem:
    """The store that the environment names now."""
    return _store_of(tuple((name, os.environ.get(name)) for name in VARIABLES))


@cache
def _store_of(environment: tuple[tuple[str, str | None], ...]) -> pafs.S3FileSystem:
    """A client of the store, kept for as long as the environment names the same."""
    own = urlsplit(endpoint() or "")
    given = {"endpoint_override": own.netloc, "scheme": own.scheme} if own.netloc else {}
    return pafs.S3FileSystem(
        **given,
        region=region(),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
    )
