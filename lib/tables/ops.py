"""Ops: what ran, on what, and which model version is current. Exempt from "the same table"."""

import pyarrow as pa

from lib.tables.contract import COUNT, INT, REAL, TEXT, TIME, Column, Table, required

TABLE_VERSION = pa.struct([pa.field("table", pa.string()), pa.field("version", pa.int64())])
FILE = pa.struct([pa.field("path", pa.string()), pa.field("sha256", pa.string()), pa.field("source", pa.string())])

RUNS = Table(
    name="ops/runs",
    comment="One run of one job: what it consumed, what it wrote, how long it took.",
    version=1,
    columns=(
        required("run_id", TEXT, "job and number"),
        required("job", TEXT, "the job"),
        required("number", COUNT, "counts the job's runs from 1; the txnVersion of its commits"),
        required("settings_hash", TEXT, "of the job's settings and the shared ones that bear on its result"),
        required("code_version", TEXT, "hash of the code that the job runs"),
        Column("as_of", TIME, "as of when its rows are known"),
        required("inputs", pa.list_(TABLE_VERSION), "tables and the versions that it reads"),
        required("input_files", pa.list_(FILE), "files that it reads (ingest)"),
        required("outputs", pa.list_(TABLE_VERSION), "tables and the versions that it committed"),
        Column("rows", COUNT, "rows written"),
        Column("seconds", REAL, "wall time"),
        required("status", TEXT, "running, done, failed, skipped or abandoned"),
        Column("message", TEXT, "why it failed or was skipped"),
        required("started_at", TIME, "when it began"),
        Column("finished_at", TIME, "when it ended"),
    ),
    key=("run_id",),
)

MODELS = Table(
    name="ops/models",
    comment="One model version, and whether it is the current one.",
    version=1,
    columns=(
        required("model", TEXT, "als, encoder, two_tower, policy, gan"),
        required("version", TEXT, "its run's id"),
        required("uri", TEXT, "folder of its files below the lake; the vectors table for als"),
        Column("sha256", TEXT, "of the checkpoint file"),
        required("run_id", TEXT, "the run that made it"),
        required("inputs", pa.list_(TABLE_VERSION), "the table versions it was trained on"),
        required("status", TEXT, "candidate, promoted or retired"),
        Column("num_parameters", INT, "trainable parameters"),
        required("created_at", TIME, "when it was registered"),
    ),
    key=("model", "version"),
    checks={"known_status": "status IN ('candidate', 'promoted', 'retired')"},
)

TABLES = (RUNS, MODELS)
