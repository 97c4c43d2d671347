"""erase: removes people from bronze to gold, from vectors and lists, from the files behind them and from the online state; ops/erasures.

Records that it was done and not of whom. Records of them that arrive later are refused by clean, as `erased`; erase, with
new names or with none, removes those from bronze too. What models have learnt of many people stays until they are trained
anew, which the next run does, for bronze has changed. No other job may be at work on the lake, for old versions of its
tables go as well. A rerun or a kill changes nothing.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lib.cleaning.batches import PLACE, own_columns
from lib.cleaning.erasures import are_erased, digest_of, erased_digests
from lib.cleaning.fields import columns_of, field_texts, form_of_id
from lib.cleaning.pseudonyms import load_key, pseudonyms
from lib.cleaning.sign_ins import has_visitors, visitors
from lib.engines.arrow_tasks import table_rows
from lib.formats.columns import find_columns
from lib.lake.maintenance import maintain
from lib.lake.writes import delete_rows, upsert
from lib.online.open_state import has_state, open_state
from lib.online.state import StateUnavailableError
from lib.runs.errors import RetryableError, SettingError
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.ops import ERASURES

FILE_BYTES = 128 << 20
USER_KEY = "(user key)"
USERS_OF_VECTORS = "id"  # the column of gold/vectors that holds a user_key or an item_id


class EraseSettings(JobSettings):
    """Whom to erase. What is set is in no row of ops and in no hash."""

    users: tuple[str, ...] = Field(
        (), exclude=True, description="ids of people as the log writes them; none: whoever was erased before"
    )


def remember(run: Run, users: Sequence[str], key: bytes) -> None:
    """Keep a digest of each user in ops/erasures, of the pseudonyms that the log's sources give them."""
    sources = run.mapping.of_kind("events").values()
    ids = pl.Series([form_of_id(user, "user_id", source) for user in users for source in sources], dtype=pl.String)
    known = pseudonyms(ids, key).drop_nulls().unique()
    if len(users) and known.is_empty():
        raise SettingError("the ids that were given stand for nobody in this log")
    now = datetime.now(UTC)
    upsert(run.lake, ERASURES, [{"digest": digest_of(user_key, key), "erased_at": now} for user_key in known])


def records_in_bronze(run: Run, name: str, users: Sequence[str], key: bytes, erased: frozenset[str]) -> pa.Table:
    """Where the erased stand in a source's table: source_file_sha256, record_number and source_record.

    A line that fits no record is theirs if it holds one of the ids `users`; so are records that name only a visitor whom
    their own records name, as on a device on which they signed in.
    """
    source, table = run.mapping.sources[name], f"bronze/{name}"
    schema = run.lake.dataset(table).schema
    own = own_columns(schema.names)
    by_visitor = has_visitors(source, own)
    columns = (*columns_of("user_id", source, own), *(find_columns(own, source.visitor_id or "") if by_visitor else ()))
    read = pa.schema([schema.field(column) for column in dict.fromkeys((*columns, *PLACE, "source_file", "malformed"))])
    token = "|".join(rf"(^|\W){pl.escape_regex(user)}(\W|$)" for user in users) or "$^"
    found = [
        pl.DataFrame(schema={"source_file_sha256": pl.String, "record_number": pl.Int64, "source_record": pl.String})
    ]

    def keyed_rows() -> Iterator[pl.DataFrame]:
        for location, _ in run.lake.data_files(table):
            for rows in table_rows(location, read):
                yield rows.with_columns(pseudonyms(field_texts(rows, "user_id", source), key).alias(USER_KEY))

    own_visitors: set[str] = set()
    for rows in keyed_rows() if by_visitor else ():
        own_visitors |= {*visitors(rows.filter(are_erased(rows[USER_KEY], erased, key)), source).drop_nulls()}
    for rows in keyed_rows():
        is_theirs = are_erased(rows[USER_KEY], erased, key) | rows["malformed"].str.contains(token).fill_null(False)
        if own_visitors:
            is_theirs |= rows[USER_KEY].is_null() & visitors(rows, source).is_in(own_visitors).fill_null(False)
        record = pl.format("{}:{}", "source_file", "record_number")
        found.append(rows.filter(is_theirs).select(*PLACE, record.alias("source_record")))
    return pl.concat(found).unique().to_arrow()


def erase_from_bronze(run: Run, name: str, users: Sequence[str], key: bytes, erased: frozenset[str]) -> dict[str, int]:
    """Delete the records of the erased from a source's table and from the rejects; returns how many, by table."""
    records = records_in_bronze(run, name, users, key, erased)
    removed = {f"bronze/{name}": delete_rows(run.lake, f"bronze/{name}", records.select(PLACE))}
    if run.lake.exists("bronze/rejects"):
        rejects = records.select(["source_record"]).append_column("source", pa.array([name] * len(records)))
        removed["bronze/rejects"] = delete_rows(run.lake, "bronze/rejects", rejects)
    return removed


def user_columns(run: Run) -> dict[str, str]:
    """The tables of silver and gold about users, with the column that names them."""
    found = {}
    for table in run.lake.tables():
        columns = contract(table).schema.names if table.startswith(("silver/", "gold/")) else []
        if "user_key" in columns:
            found[table] = "user_key"
    return found | ({"gold/vectors": USERS_OF_VECTORS} if run.lake.exists("gold/vectors") else {})


def erase_from_table(run: Run, table: str, column: str, key: bytes, erased: frozenset[str]) -> int:
    """Delete the rows about the erased from a table of silver or gold; returns how many."""
    batches = run.lake.dataset(table).to_batches(columns=[column])
    named = pl.Series(column, [*{one for batch in batches for one in pc.unique(batch[column]).to_pylist()}], pl.String)
    gone = named.filter(are_erased(named, erased, key))
    return delete_rows(run.lake, table, pa.table({column: gone.to_arrow().cast(pa.string())}))


def erase_from_state(settings: EraseSettings, key: bytes, erased: frozenset[str]) -> int:
    """Remove the erased from the online state, if there is one; returns how many it knew.

    Raises:
        RetryableError: it does not answer, so they may still be in it.
    """
    if not has_state(settings.live, settings.lake.path):
        return 0
    state = open_state(settings.live, settings.lake.path)
    try:
        known = pl.Series([*state.user_keys()], dtype=pl.String)
        gone = known.filter(are_erased(known, erased, key)).to_list()
        state.forget(gone)
    except StateUnavailableError as error:
        raise RetryableError(f"{error}; who was to be erased may still be in it: run erase again") from None
    finally:
        state.close()
    return len(gone)


def main(settings: EraseSettings) -> None:
    with start_run("erase", settings) as run:
        key = load_key(settings.privacy, settings.lake.path)
        users = [user.strip() for user in settings.users]
        remember(run, users, key)
        erased = erased_digests(run.lake)
        removed: dict[str, int] = {}
        for name in run.mapping.of_kind("events"):
            if run.lake.exists(f"bronze/{name}"):
                for table, number in erase_from_bronze(run, name, users, key, erased).items():
                    removed[table] = removed.get(table, 0) + number
        for table, column in user_columns(run).items():
            removed[table] = erase_from_table(run, table, column, key, erased)
        if removed.get("silver/events") and run.lake.exists("silver/descriptions"):
            # They name events by a hash of what these were; clean makes them anew, from all records.
            removed["silver/descriptions"] = int(run.lake.open("silver/descriptions").delete()["num_deleted_rows"])
        for table, number in removed.items():
            maintain(run.lake, table, target_bytes=FILE_BYTES, retention=timedelta(0))
            if number:
                run.log(f"erased from {table}", rows=number)
        if known := erase_from_state(settings, key, erased):
            run.log("erased from the online state", users=known)
        run.log("erased", rows=sum(removed.values()), tables=sum(number > 0 for number in removed.values()))


if __name__ == "__main__":
    main(EraseSettings.from_command_line())
