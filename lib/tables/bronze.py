"""Bronze: records as received, append-only, restricted (they hold the source's user ids)."""

from dataclasses import replace

from lib.tables.contract import BYTES, COUNT, INT, TEXT, TIME, Column, Table, required, volatile

ARRIVAL = (
    volatile("batch_id", TEXT, "the run of ingest, or the stream's batch, that read it"),
    volatile("arrived_at", TIME, "when that began"),
)

IGNORED = "ignored"  # reason of the records that the mapping does not want; they count for no limit
LATE = "late"  # reason of the records that came after the stream's watermark had passed their events; they count for no limit
ERASED = "erased"  # reason of the records of people who asked to be forgotten
UNSHOWN = (IGNORED, ERASED)  # reasons of records that the rejects do not repeat, and that no rule has found fault with
NO_DAY = "none"  # in `day`, where a refused record has no time
MANY_REJECTED_FRAC = 0.1  # a rule that refuses more of a source's records than this is said loudly

SOURCE = Table(
    name="bronze/source",
    comment="One record of one source of the mapping, as received; the table is named after the source.",
    version=1,
    columns=(
        required("source_file", TEXT, "the file's path below the log folder; kafka/<topic>/<partition> of a message"),
        required(
            "source_file_sha256",
            TEXT,
            "SHA-256 of the file's content, which identifies the file; of the topic's partition and the stream that reads it",
        ),
        required("record_number", COUNT, "position in the file, from 1, without the header; a message's offset"),
        Column("malformed", TEXT, "the whole line or record if it did not fit, else null", personal=True),
        Column(
            "stream_watermark",
            TIME,
            "the time before which the stream took no more events when it read the record; null of a file's",
        ),
        *ARRIVAL,
    ),
    key=("source_file_sha256", "record_number"),
    open=True,
)

DECLARED = frozenset(column.name for column in SOURCE.columns)  # the columns of a source's table that are not its own

IMAGES = Table(
    name="bronze/images",
    comment="One product picture as received.",
    version=1,
    columns=(
        required("item_id", TEXT, "the source's item id, trimmed; one form for whole numbers"),
        Column("bytes", BYTES, "the encoded picture: JPEG, PNG, GIF, WebP, AVIF, BMP or TIFF"),
        Column("uri", TEXT, "where the picture is, if its bytes are not stored here"),
        Column("width", INT, "pixels"),
        Column("height", INT, "pixels"),
        required("source_file", TEXT, "the file's path below the log folder"),
        required("source_file_sha256", TEXT, "SHA-256 of the file's content"),
        *ARRIVAL,
    ),
    key=("item_id", "source_file_sha256"),
    checks={"has_picture": "bytes IS NOT NULL OR uri IS NOT NULL"},
)

REJECTS = Table(
    name="bronze/rejects",
    comment="One refused record, or one file set aside whole; restricted, because it holds ids.",
    version=2,
    columns=(
        required(
            "stage", TEXT, "job that refused it: ingest (a whole file, or a row that is no picture) or clean (a record)"
        ),
        required("source", TEXT, "the mapping's source"),
        required("source_file", TEXT, "the file's path below the log folder"),
        Column("source_record", TEXT, "file:record number; null for a whole file"),
        required(
            "reason",
            TEXT,
            "malformed, bad_value:<column>, late (the stream had no more place for it), superseded (a record with the same record_key arrived later), duplicate, "
            "not_a_product, stray_time (far outside the days of the log), double_click, ignored, erased or file:<what is wrong>",
        ),
        Column(
            "raw",
            TEXT,
            "the record as received, as JSON with its fields by name; null if ignored (bronze/<source> holds it) or erased",
            personal=True,
        ),
        required("day", TEXT, "the UTC date of its event, such as 2026-01-31; `none` where it has no time"),
        Column("event_time", TIME, "when its event happened, UTC"),
        Column("user_key", TEXT, "keyed pseudonym of its user", personal=True),
        *ARRIVAL,
    ),
    partition_by=("stage", "source", "day"),
)

TABLES = (SOURCE, IMAGES, REJECTS)


def source_table(name: str) -> Table:
    """The open contract of the table of one source, `bronze/<source>`."""
    return replace(SOURCE, name=name)
