"""A file of a log, where it lies, and the content of a text file in blocks of whole lines."""

import codecs
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from gzip import BadGzipFile, GzipFile

import pyarrow as pa

from lib.lake.places import filesystem_of

BLOCK_BYTES = 8 << 20
CHUNK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 256 << 20
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
WIDE = {"utf-16": ("utf-16-le", "utf-16-be"), "utf-32": ("utf-32-le", "utf-32-be")}
NOT_TEXT = "cartwheel.not_text"  # what is no text in its encoding becomes the byte FF, which is never UTF-8


def _as_no_text(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
    return ("\udcff" if isinstance(error, UnicodeDecodeError) else b"\xff"), error.end


codecs.register_error(NOT_TEXT, _as_no_text)


class UnreadableError(ValueError):
    """A file that cannot be read; the message says why, in a few words."""


class ChangedError(UnreadableError):
    """A file that is no longer the one that was found; it may be read at another time."""


@dataclass(frozen=True)
class LogFile:
    """A file of the log: its location, its path below the log folder, its size, and the source it belongs to.

    And when it was changed last, where the file system tells it.
    """

    location: str
    path: str
    num_bytes: int
    source: str
    modified_at: datetime | None = None


@contextmanager
def open_file(location: str) -> Iterator[pa.NativeFile]:
    """A file, opened to be read anywhere."""
    filesystem, path = filesystem_of(location)
    with filesystem.open_input_file(path) as stream:
        yield stream


def require_unchanged(file: LogFile) -> None:
    """Check that a file has the size and the time of change at which it was found.

    Raises:
        ChangedError: it has others, or is gone.
    """
    filesystem, path = filesystem_of(file.location)
    now = filesystem.get_file_info(path)
    if now.size != file.num_bytes or (file.modified_at is not None and now.mtime != file.modified_at):
        raise ChangedError("was changed while the log was read")


def sha256_of(file: LogFile) -> str:
    """What a file is known by: the SHA-256 of its content."""
    digest = hashlib.sha256()
    with open_file(file.location) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def text_blocks(file: LogFile, encoding: str) -> Iterator[bytes]:
    """A text file's content, unpacked and in UTF-8, in blocks that end with whole lines.

    Bytes that are no text in its encoding become bytes that are not UTF-8: they make a line malformed.

    Raises:
        UnreadableError: it is a gzip file that is cut off or damaged, or has a line that is too long.
    """
    rest = b""
    try:
        for text in _unpacked(file, encoding):
            end = text.rfind(b"\n") + 1
            if end:
                yield rest + text[:end]
                rest = text[end:]
            else:
                rest += text
            if len(rest) > LONGEST_LINE_BYTES:
                raise UnreadableError(f"has a line of more than {LONGEST_LINE_BYTES >> 20} MiB")
    except EOFError:
        raise UnreadableError("is a gzip file that was cut off") from None
    except (BadGzipFile, zlib.error):
        raise UnreadableError("is a damaged gzip file") from None
    if rest:
        yield rest


def is_utf8(text: bytes) -> bool:
    """Whether bytes are text in UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unpacked(file: LogFile, encoding: str) -> Iterator[bytes]:
    """A text file's content in UTF-8 without a byte order mark, in blocks that end anywhere."""
    name = codecs.lookup(encoding).name
    with open_file(file.location) as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        content = GzipFile(fileobj=stream) if is_gzip else stream
        first = content.read(BLOCK_BYTES)
        if name in ("utf-8", "utf-8-sig"):
            if first.startswith(UTF_16_MARKS):
                raise UnreadableError("begins with the mark of UTF-16 text; set reader.encoding: utf-16")
            yield first.removeprefix(codecs.BOM_UTF8)
            while block := content.read(BLOCK_BYTES):
                yield block
            return
        if name in WIDE and not first.startswith((*UTF_16_MARKS, codecs.BOM_UTF32_BE)):
            name = WIDE[name][first.startswith(b"\0")]  # without a mark, Python would guess from the machine
        decoder = codecs.getincrementaldecoder(name)(NOT_TEXT)
        yield decoder.decode(first).removeprefix("\ufeff").encode(errors=NOT_TEXT)
        while block := content.read(BLOCK_BYTES):
            yield decoder.decode(block).encode(errors=NOT_TEXT)
        yield decoder.decode(b"", final=True).encode(errors=NOT_TEXT)
