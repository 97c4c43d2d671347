"""Ops: what ran, on which inputs, and which model version is current. Reruns may change its rows."""

import pyarrow as pa

from lib.tables.contract import COUNT, DATE, INT, REAL, TEXT, TIME, Column, Table, required

TABLE_VERSION = pa.struct([pa.field("table", pa.string()), pa.field("version", pa.int64())])
FILE = pa.struct([pa.field("path", pa.string()), pa.field("sha256", pa.string()), pa.field("source", pa.string())])

RUNS = Table(
    name="ops/runs",
    comment="One run of one job: what it read, what it wrote, how long it took.",
    version=1,
    columns=(
        required("run_id", TEXT, "job and number"),
        required("job", TEXT, "the job"),
        required("number", COUNT, "number of the run among the job's, from 1; the txnVersion of its commits"),
        required("settings_hash", TEXT, "hash of the settings that affect the result, the job's own and shared ones"),
        required("code_version", TEXT, "hash of the code that the job runs"),
        Column("as_of", TIME, "the time up to which its rows use the log"),
        required("inputs", pa.list_(TABLE_VERSION), "tables that it reads, with versions"),
        required("input_files", pa.list_(FILE), "files that it reads (ingest)"),
        required("outputs", pa.list_(TABLE_VERSION), "tables that it committed, with versions"),
        Column("rows", COUNT, "rows written"),
        Column("seconds", REAL, "wall time"),
        required("status", TEXT, "running, done, failed, skipped or abandoned"),
        Column("message", TEXT, "why it failed or was skipped"),
        required("started_at", TIME, "when it began"),
        Column("finished_at", TIME, "when it ended"),
        Column("from_date", DATE, "the first day that it was to make anew; null: it was a run of all days"),
        Column("to_date", DATE, "the last of these days"),
    ),
    key=("run_id",),
)

MODELS = Table(
    name="ops/models",
    comment="One model version, and whether it is the current one.",
    version=1,
    columns=(
        required("model", TEXT, "als, encoder, two_tower, sequence, policy, gan"),
        required("version", TEXT, "its run's id"),
        required("uri", TEXT, "folder of its files below the lake; the vectors table for als"),
        Column("sha256", TEXT, "of the checkpoint file"),
        required("run_id", TEXT, "the run that made it"),
        required("inputs", pa.list_(TABLE_VERSION), "tables that it was trained on, with versions"),
        required("status", TEXT, "candidate, promoted (the current one) or retired"),
        Column("num_parameters", INT, "trainable parameters"),
        required("created_at", TIME, "when it was registered"),
        Column("reason", TEXT, "why it was promoted or stands as a candidate, with the numbers"),
        Column("as_of", TIME, "the time up to which it used the log"),
        Column("settings", TEXT, "its job's own settings, and by whose model titles are seen: a JSON object"),
        Column("curves", TEXT, "what was measured after each epoch: a JSON object of lists of numbers"),
    ),
    key=("model", "version"),
    checks={"known_status": "status IN ('candidate', 'promoted', 'retired')"},
)

FILES = Table(
    name="ops/files",
    comment="By what a file of the log is known: ingest does not open one again that has not changed.",
    version=1,
    columns=(
        required("location", TEXT, "where the file is"),
        required("num_bytes", COUNT, "its size"),
        required("modified_at", TIME, "when it was changed last, as its file system tells"),
        required("sha256", TEXT, "SHA-256 of its content"),
        required("hashed_at", TIME, "a time just before it was hashed"),
    ),
    key=("location",),
)

ERASURES = Table(
    name="ops/erasures",
    comment="One person who asked to be forgotten, and of whom nothing is kept that tells who it was.",
    version=1,
    columns=(
        required("digest", TEXT, "keyed hash of the user's pseudonym: by it clean refuses records that arrive later"),
        required("erased_at", TIME, "when it was asked last"),
    ),
    key=("digest",),
)

RETRAININGS = Table(
    name="ops/retrainings",
    comment="One release for which drift had the pipeline run again: once.",
    version=1,
    columns=(
        required("release", TEXT, "the release that had drifted: its run's id"),
        required("run_id", TEXT, "the run of drift that asked first"),
        required("status", TEXT, "running, done or failed"),
        required("drifted", TEXT, "what had drifted"),
        required("started_at", TIME, "when it began first"),
        Column("finished_at", TIME, "when it ended last"),
        Column("exit_code", INT, "of the pipeline"),
    ),
    key=("release",),
    checks={"known_status": "status IN ('running', 'done', 'failed')"},
)

TABLES = (RUNS, MODELS, FILES, ERASURES, RETRAININGS)
