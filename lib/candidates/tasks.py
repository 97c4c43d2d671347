"""The functions that the tasks of recommend and train_ranker run.

A task reads files of gold/interactions and packs what is known at some moments by shard of whole users; others sum the items
and count the pairs of items of all shards. With the retrieval of a moment (lib/candidates/sources.py) a task then makes the
candidates of its shard's users, and writes lists, or keeps them as the ranker's examples. Does not import Spark or Ray.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.candidates import known
from lib.candidates.catalogue import Catalogue
from lib.candidates.examples import Examples, Pairs, no_history
from lib.candidates.features import FEATURES, features_of
from lib.candidates.histories import Histories, histories_of
from lib.candidates.lists import RANKED, WITHOUT_RULES, Wording, Writer
from lib.candidates.ranker import Ranker
from lib.candidates.rules import Rules
from lib.candidates.sources import Candidates, Retrieval, candidates_of
from lib.engines.arrow_tasks import (
    Broadcast,
    of_kinds,
    packed,
    part,
    rows_of,
    shards_by,
    table_rows,
    unpacked,
    write_rows,
)
from lib.lake.lake import Lake
from lib.ranking.ease import gram_of, pair_counts, weights_of
from lib.ranking.known_pairs import INTERACTION, interaction_schema
from lib.tables import Table
from lib.tables.gold import CANDIDATES, RECOMMENDATIONS, VECTORS_TABLE

# Kinds of parts; those of one moment end with its name.
PAIR, USER, SUMS, COUNTS, WEIGHTS, VECTOR = "pair", "user", "sums", "counts", "weights", "vector"
EXAMPLE, HISTORY, WANTED = "example", "history", "wanted"
READ = interaction_schema(known.READ)
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    SUMS: {"moment": pl.String, **known.ITEM_SUMS},
    USER: {"moment": pl.String, "num_users": pl.Int64, "num_pairs": pl.Int64, "num_asked": pl.Int64},
}


class Moment(NamedTuple):
    """When lists are made; the users who are asked for are all, or those who buy before `until`."""

    as_of: datetime
    until: datetime | None = None


def spread_vectors(
    files: Iterable[pa.RecordBatch], *, versions: Mapping[str, str], num_shards: int
) -> Iterator[pa.RecordBatch]:
    """Read files of gold/vectors of users, and pack those of some versions, name -> version, by shard."""
    schema = pa.schema([VECTORS_TABLE.schema.field(name) for name in ("version", "id", "values")])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            for name, version in versions.items():
                of_version = rows.filter(pl.col("version") == version).select("id", "values")
                yield from packed(of_version, f"{VECTOR}/{name}", shards_by(of_version["id"], num_shards))


def describe(parts: Iterable[pa.RecordBatch], *, moments: Mapping[str, Moment]) -> Iterator[pa.RecordBatch]:
    """Pack what is known at each moment of a shard's users and their items; both are counted. Vectors stay as they are."""
    batches = list(parts)
    found = unpacked(of_kinds(batches, frozenset([INTERACTION]), are_wanted=True))
    yield from of_kinds(batches, frozenset([INTERACTION]), are_wanted=False)
    interactions = found.get(INTERACTION, pl.DataFrame(READ.empty_table()))
    for name, moment in moments.items() if len(interactions) else ():
        pairs = known.known_pairs(interactions, as_of=moment.as_of)
        users = known.known_users(interactions, as_of=moment.as_of)
        asked = wanted(interactions, moment) if moment.until else interactions
        everyone = asked.select("user_key").unique().join(users, on="user_key", how="left").sort("user_key")
        counts = {"moment": name, "num_users": len(users), "num_pairs": len(pairs), "num_asked": len(everyone)}
        yield from packed(pl.DataFrame([counts], schema=GATHERED[USER]), USER)
        yield from packed(known.item_sums(pairs).select(pl.lit(name).alias("moment"), *known.ITEM_SUMS), SUMS)
        yield from packed(pairs, f"{PAIR}/{name}")
        yield from packed(everyone, f"{USER}/{name}")
        if moment.until:
            yield from packed(asked, f"{WANTED}/{name}")


def wanted(interactions: pl.DataFrame, moment: Moment) -> pl.DataFrame:
    """`user_key` and `item_id` of what was bought from the moment on until its end, each pair once, sorted."""
    is_in = (pl.col("event_time") >= moment.as_of) & (pl.col("event_time") < moment.until)
    bought = interactions.filter(is_in & (pl.col("num_relevant") > 0))
    return bought.select("user_key", "item_id").unique().sort("user_key", "item_id")


def count_pairs(
    parts: Iterable[pa.RecordBatch], *, item_ids: Broadcast[Mapping[str, pa.StringArray]]
) -> Iterator[pa.RecordBatch]:
    """Count, for each moment, how many users of a shard have both of two items, and how much that counts; each moment is a shard of its own."""
    found = unpacked(parts)
    for shard, (name, ids) in enumerate(item_ids.value.items()):
        pairs = found.get(f"{PAIR}/{name}")
        if pairs is None:
            continue
        item = pl.Series(pc.index_in(pairs["item_id"].to_arrow().cast(pa.string()), value_set=ids))
        user = pairs["user_key"].rank("dense").to_numpy() - 1
        kept = item.is_not_null().to_numpy()
        places = user[kept].astype(np.int64), item.drop_nulls().to_numpy()
        shape = (int(user.max()) + 1, len(ids))
        counts = pair_counts(sp.csr_array((known.counted(pairs["num_relevant"].to_numpy())[kept], places), shape=shape))
        yield from packed(counts, COUNTS, pl.repeat(shard, len(counts), dtype=pl.Int32, eager=True))


def solve_ease(
    parts: Iterable[pa.RecordBatch],
    *,
    num_items: Sequence[int],
    penalty: float,
    min_support: int,
    others: Broadcast[Sequence[sp.csr_array]] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The weights of EASE of the moment whose counts of all shards these are; a part holds them as they lie in memory.

    `others` is what the weights of other items say, of each moment (lib/ranking/ease.py).
    """
    counts: list[pl.DataFrame] = []
    shard = None
    for batch in parts:
        shard = batch["shard"][0].as_py()
        counts += [pl.read_ipc_stream(content) for content in batch["content"].to_pylist()]
    if shard is not None:
        gram, said = gram_of(counts, num_items[shard]), None if others is None else others.value[shard]
        weights = weights_of(gram, penalty=penalty, min_support=min_support, others=said)
        yield part(f"{WEIGHTS}/{shard}", weights.tobytes())


def make_examples(
    parts: Iterable[pa.RecordBatch],
    *,
    retrievals: Broadcast[Mapping[str, Retrieval]],
    shares: Mapping[str, float],
    num_workers: int,
    item_ids: Broadcast[pa.StringArray] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The ranker's examples of each moment, of a share of the users who bought something, by training worker.

    With `item_ids` the examples say which of these items each candidate is, and which the user had.
    """
    found = unpacked(parts)
    named = None if item_ids is None else item_ids.value
    for name, retrieval in retrievals.value.items():
        if f"{USER}/{name}" not in found:
            continue
        asked = pl.Series(found[f"{USER}/{name}"]["user_key"])
        draw = asked.hash(seed=1) / 2**64
        users = found[f"{USER}/{name}"].filter(draw < shares[name])
        for block, candidates in candidates_by_block(found, users, name, retrieval):
            rows = _examples(block, candidates, found[f"{WANTED}/{name}"], retrieval)
            kind = f"{EXAMPLE}/{name}"
            if named is not None:
                number = numbers_of(retrieval.catalogue, named)
                rows = rows.with_columns(item=pl.Series(number[candidates.item]))
                yield from _packed_history(block, number, f"{HISTORY}/{name}", num_workers)
            yield from packed(rows, kind, shards_by(rows["user_key"], num_workers))


def numbers_of(catalogue: Catalogue, item_ids: pa.StringArray) -> NDArray[np.int32]:
    """(items,): where each item of a catalogue stands among the ids, -1 where it does not."""
    found = pc.fill_null(pc.index_in(catalogue.item_ids, value_set=item_ids), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int32)


def _packed_history(
    block: Histories, number: NDArray[np.int32], kind: str, num_workers: int
) -> Iterator[pa.RecordBatch]:
    """The items of a number that each user of a block had, with their weights."""
    own = block.pairs
    columns = {
        "user_key": pl.Series(block.user_keys).gather(own.user),
        "item": number[own.item],
        "weight": own.weight_60.astype(np.float32),
    }
    rows = pl.DataFrame(columns).filter(pl.col("item") >= 0)
    yield from packed(rows, kind, shards_by(rows["user_key"], num_workers))


def _examples(block: Histories, candidates: Candidates, bought: pl.DataFrame, retrieval: Retrieval) -> pl.DataFrame:
    place = pl.DataFrame({"user_key": pl.Series(block.user_keys)}).with_row_index("user")
    theirs = bought.join(place, on="user_key", how="inner")
    user = theirs["user"].to_numpy().astype(np.int64)
    item = retrieval.catalogue.positions(theirs["item_id"].to_arrow().cast(pa.string()))
    width = len(retrieval.catalogue)
    cell = candidates.user * width + candidates.item
    label = np.isin(cell, (user * width + item)[item >= 0])
    own = block.pairs.user * width + block.pairs.item
    is_new = (item < 0) | ~np.isin(user * width + item, own)
    num_users = len(block.user_keys)
    features = features_of(candidates, block, retrieval.catalogue)
    return pl.DataFrame(features, schema=list(FEATURES), orient="row").with_columns(
        user_key=pl.Series(block.user_keys).gather(candidates.user),
        label=pl.Series(label.astype(np.int8)),
        is_new=pl.Series(candidates.pair < 0),
        num_wanted=pl.Series(np.bincount(user, minlength=num_users)[candidates.user]),
        num_wanted_new=pl.Series(np.bincount(user[is_new], minlength=num_users)[candidates.user]),
    )


def examples_of(parts: Iterable[pa.RecordBatch], *, item_ids: pa.StringArray | None = None) -> dict[str, Examples]:
    """The examples of each moment in a training worker's parts, users in the order of their keys.

    Args:
        parts: what `make_examples` gave.
        item_ids: those that it was given.
    """
    found: dict[str, Examples] = {}
    kinds = unpacked(parts)
    for kind, rows in kinds.items():
        if not kind.startswith(f"{EXAMPLE}/"):
            continue
        name = kind.removeprefix(f"{EXAMPLE}/")
        in_order = rows.sort("user_key", maintain_order=True)
        group = in_order["user_key"].rank("dense").to_numpy().astype(np.int64) - 1
        first = np.searchsorted(group, np.arange(group[-1] + 1))
        pairs = None
        if item_ids is not None:
            history = _history_of(kinds.get(f"{HISTORY}/{name}"), in_order["user_key"][first], len(item_ids))
            pairs = Pairs(item_ids, group, in_order["item"].to_numpy().astype(np.int64), history)
        found[name] = Examples(
            np.ascontiguousarray(in_order.select(FEATURES).to_numpy(), dtype=np.float32),
            in_order["label"].to_numpy(),
            in_order["is_new"].to_numpy(),
            group,
            in_order.select("num_wanted", "num_wanted_new").to_numpy()[first].astype(np.int64),
            pairs,
        )
    return found


def _history_of(rows: pl.DataFrame | None, users: pl.Series, num_items: int) -> sp.csr_array:
    """(users, items) of the rows of `_packed_history`; nobody has anything where there are none."""
    if rows is None:
        return no_history(len(users), num_items)
    place = pl.DataFrame({"user_key": users}).with_row_index("user")
    theirs = rows.join(place, on="user_key", how="inner").sort("user", "item")
    cells = theirs["user"].to_numpy().astype(np.int64), theirs["item"].to_numpy().astype(np.int64)
    return sp.csr_array((theirs["weight"].to_numpy(), cells), shape=(len(users), num_items))


def candidates_by_block(
    found: Mapping[str, pl.DataFrame], users: pl.DataFrame, name: str, retrieval: Retrieval
) -> Iterator[tuple[Histories, Candidates]]:
    """The candidates of a shard's users, block by block."""
    pairs = found.get(f"{PAIR}/{name}")
    if pairs is None:
        pairs = known.known_pairs(pl.DataFrame(READ.empty_table()), as_of=retrieval.as_of)
    end = f"/{name}"
    vectors = {
        kind.removeprefix(f"{VECTOR}/").removesuffix(end): rows
        for kind, rows in found.items()
        if kind.startswith(f"{VECTOR}/") and kind.endswith(end)
    }
    histories = histories_of(pairs, users, retrieval.catalogue, vectors=vectors)
    for start in range(0, len(users), retrieval.users_at_once):
        block = histories.block(slice(start, min(start + retrieval.users_at_once, len(users))))
        yield block, candidates_of(retrieval, block)


def write_lists(
    parts: Iterable[pa.RecordBatch],
    *,
    lake: Lake,
    name: str,
    retrieval: Broadcast[Retrieval],
    ranker: Ranker | None,
    versions: Mapping[str, str],
    length: int,
    wording: Wording,
    rules: Rules,
) -> Iterator[pa.RecordBatch]:
    """Write the candidates and the lists of a shard's users.

    Args:
        parts: what is known at the moment.
        lake: where they are written.
        name: the moment's.
        retrieval: its retrieval.
        ranker: None if there is none.
        versions: model -> version, of the strategies that have one.
        length: of the lists.
        wording: of the reasons.
        rules: of the ranked lists.
    """
    found = unpacked(parts)
    users = found.get(f"{USER}/{name}")
    if users is None:
        return
    writer = Writer(retrieval.value, ranker, length, wording, rules)
    lists: dict[str, list[pa.Table]] = {}
    candidates: dict[str, list[pa.Table]] = {}
    for block, chosen in candidates_by_block(found, users, name, retrieval.value):
        for strategy, rows in writer.lists(block, chosen):
            lists.setdefault(strategy, []).append(rows)
        for source, rows in _candidate_rows(block, chosen, retrieval.value):
            candidates.setdefault(source, []).append(rows)
    as_of = pa.scalar(retrieval.value.as_of, RECOMMENDATIONS.schema.field("as_of").type)
    for strategy, of_strategy in lists.items():
        model = "ranker" if strategy in (RANKED, WITHOUT_RULES) else strategy
        behind = {"model": model, "version": versions[strategy]} if strategy in versions else {}
        values = {"as_of": as_of, "strategy": strategy, "model": None, "version": None} | behind
        yield from write_rows(_with(of_strategy, values, RECOMMENDATIONS), lake=lake, table=RECOMMENDATIONS)
    for source, of_source in candidates.items():
        values = {"as_of": as_of, "source": source}
        yield from write_rows(_with(of_source, values, CANDIDATES), lake=lake, table=CANDIDATES)


def _with(tables: Sequence[pa.Table], values: Mapping[str, Any], table: Table) -> Iterator[pa.RecordBatch]:
    """Rows with a value of a column in all of them, in the order of the contract's columns."""
    for rows in tables:
        columns = {name: rows[name] for name in rows.column_names}
        for name, value in values.items():
            columns[name] = pa.repeat(pa.scalar(value, table.schema.field(name).type), rows.num_rows)
        yield from pa.table({name: columns[name] for name in table.schema.names}).to_batches()


def _candidate_rows(block: Histories, candidates: Candidates, retrieval: Retrieval) -> Iterator[tuple[str, pa.Table]]:
    """By source, rows with user_key, item_id, score and rank."""
    for source, proposed in candidates.proposed.items():
        columns = {
            "user_key": block.user_keys.take(pa.array(proposed.user)),
            "item_id": retrieval.catalogue.item_ids.take(pa.array(proposed.item)),
            "score": pa.array(proposed.score, pa.float64()),
            "rank": pa.array(proposed.rank, pa.int32()),
        }
        yield source, pa.table(columns)
