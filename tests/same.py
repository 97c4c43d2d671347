"""Whether two lakes hold the same tables, as docs/tables.md means it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lib.lake.lake import Lake
from lib.lake.query import connect
from lib.tables import contract

# What comes from networks or carries their runs' ids is the same when keys agree and validation metrics agree within 1 %.
FROM_NETWORKS = ("gold/model_metrics", "gold/propensity_to_buy", "gold/policy_values", "gold/creatives")
MODELS_OF_NETWORKS = ("two_tower", "sequence", "encoder", "ranked")  # the ranker reads the two towers' scores
ALS_TOLERANCE = 1e-3
OVERLAP = 0.99
CANDIDATE_TOLERANCE = 1e-4
METRIC_TOLERANCE = 0.01
OF_CALIBRATION = r"^ece|_bin_"  # metrics near 0 or of few examples, which a tie moves


def differences(one: Path | Lake, other: Path | Lake, *, but: Sequence[str] = ()) -> list[str]:
    """The tables whose content is not the same, each with what differs; `ops/` is exempt."""
    first, second = (lake if isinstance(lake, Lake) else Lake(str(lake)) for lake in (one, other))
    names = [name for name in first.tables() if not name.startswith("ops/") and name not in but]
    missing = set(names) ^ {name for name in second.tables() if not name.startswith("ops/") and name not in but}
    found = [f"{name}: in one lake only" for name in sorted(missing)]
    for name in (name for name in names if name not in missing):
        difference = _difference(first, second, name)
        if difference:
            found.append(f"{name}: {difference}")
    return found


def digest(lake: Path) -> dict[str, int]:
    """The data version of every table but ops: equal before and after means that nothing was committed."""
    held = Lake(str(lake))
    return {name: held.data_version(name) or 0 for name in held.tables() if not name.startswith("ops/")}


def _difference(first: Lake, second: Lake, name: str) -> str | None:
    if name == "gold/vectors":
        return _vectors_differ(first, second)
    if name == "gold/recommendations":
        return _lists_differ(first, second)
    if name == "gold/candidates":
        return _candidates_differ(first, second)
    if name in (*FROM_NETWORKS, "gold/ranking_metrics"):
        return _metrics_differ(first, second, name)
    declared = set(contract(name).content_columns)
    volatile = {column.name for column in contract(name).columns if column.volatile}
    columns = [c for c in first.dataset(name).schema.names if c in declared or c not in volatile]
    chosen = ", ".join(_comparable(column, first.dataset(name).schema.field(column).type) for column in columns)
    rows = []
    for lake in (first, second):
        with connect(lake) as connection:
            rows.append(connection.sql(f"SELECT {chosen} FROM {name.replace('/', '.')}").to_arrow_table())
    import duckdb

    with duckdb.connect() as connection:
        connection.register("a", rows[0])
        connection.register("b", rows[1])
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM (FROM a EXCEPT ALL FROM b)), (SELECT count(*) FROM (FROM b EXCEPT ALL FROM a))"
        ).fetchone()
    assert counted is not None
    only_first, only_second = counted
    return (
        f"{only_first} rows only in the first, {only_second} only in the second" if only_first or only_second else None
    )


def _comparable(column: str, kind: pa.DataType) -> str:
    """A column as text where DuckDB compares no maps; floats rounded to what a changed order of a sum leaves alone."""
    if pa.types.is_floating(kind):
        return f'round("{column}", 9) AS "{column}"'
    if pa.types.is_nested(kind):
        return f'CAST("{column}" AS VARCHAR) AS "{column}"'
    return f'"{column}"'


def _vectors_differ(first: Lake, second: Lake) -> str | None:
    tables = [lake.dataset("gold/vectors").to_table().to_pandas() for lake in (first, second)]
    keys = [set(zip(table.model, table.as_of, table.kind, table.id, strict=True)) for table in tables]
    if keys[0] != keys[1]:
        return f"{len(keys[0] ^ keys[1])} vectors in one lake only"
    factors = [table[table.model == "als"].sort_values(["as_of", "kind", "id"])["values"] for table in tables]
    if not len(factors[0]):
        return None
    largest = float(np.abs(np.vstack(factors[0].to_list()) - np.vstack(factors[1].to_list())).max())
    return f"ALS factors differ by {largest:.2g}" if largest > ALS_TOLERANCE else None


def _lists_differ(first: Lake, second: Lake) -> str | None:
    lists = []
    for lake in (first, second):
        columns = ["strategy", "question", "user_key", "item_id"]
        table = lake.dataset("gold/recommendations").to_table(columns=columns).to_pandas()
        lists.append(table.groupby(["strategy", "question", "user_key"]).item_id.agg(set))
    if not lists[0].index.equals(lists[1].index):
        return "lists of different users"
    shared = [len(a & b) / max(len(a), len(b)) for a, b in zip(*lists, strict=True)]
    strategies = lists[0].index.get_level_values("strategy")
    means = {name: float(np.mean(np.array(shared)[strategies == name])) for name in strategies.unique()}
    apart = [name for name, mean in means.items() if name not in MODELS_OF_NETWORKS and mean < OVERLAP]
    return ", ".join(f"lists of {name} overlap by {means[name]:.3f}" for name in apart) or None


def _candidates_differ(first: Lake, second: Lake) -> str | None:
    """Those of vectors are left out: what they propose is in the lists, which are compared."""
    tables = []
    for lake in (first, second):
        table = lake.dataset("gold/candidates").to_table().to_pandas()
        counted = table[~table.source.isin(["als", "two_tower", "sequence"])]
        tables.append(counted.set_index(["as_of", "source", "user_key", "item_id"]).sort_index().score)
    if not tables[0].index.equals(tables[1].index):
        return f"{len(tables[0].index.symmetric_difference(tables[1].index))} candidates in one lake only"
    largest = float((tables[0] - tables[1]).abs().max()) if len(tables[0]) else 0.0
    return f"scores of candidates differ by {largest:.2g}" if largest > CANDIDATE_TOLERANCE else None


def _metrics_differ(first: Lake, second: Lake, name: str) -> str | None:
    key = [column for column in contract(name).key if column not in ("version", "creative_id")]
    if name == "gold/creatives":
        key = ["item_id", "kind"]
    tables = [lake.dataset(name).to_table().to_pandas() for lake in (first, second)]
    if name == "gold/model_metrics":
        tables = [table[~table.metric.str.contains(OF_CALIBRATION)] for table in tables]
    joined = tables[0].merge(tables[1], on=key, how="outer", suffixes=("", "_other"), indicator=True)
    if (joined._merge != "both").any():
        return f"{int((joined._merge != 'both').sum())} keys in one lake only"
    if "value" not in joined or "split" not in joined:
        return None
    valid = joined[(joined.split == "valid") & joined.value.notna()]
    scale = np.maximum(valid.value.abs(), valid.value_other.abs())
    apart = ((valid.value - valid.value_other).abs() / scale.where(scale > 0, 1)).max() if len(valid) else 0.0
    return f"validation metrics differ by {apart:.1%}" if apart > METRIC_TOLERANCE else None
