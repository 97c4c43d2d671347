"""People who asked to be forgotten: ops/erasures keeps a digest of each, from which nobody can be told without the key."""

import hmac
from collections.abc import Collection

import polars as pl

from lib.cleaning.pseudonyms import LENGTH
from lib.lake.lake import Lake
from lib.lake.writes import rows_of
from lib.tables.ops import ERASURES

PURPOSE = b"cartwheel: an erased user\0"


def digest_of(user_key: str, key: bytes) -> str:
    """What ops/erasures keeps of a user: the HMAC of the pseudonym, which differs from the pseudonym in every table."""
    return hmac.digest(key, PURPOSE + user_key.encode(), "sha256").hex()[:LENGTH]


def erased_digests(lake: Lake) -> frozenset[str]:
    """The digests of all who were erased."""
    return frozenset(row["digest"] for row in rows_of(lake, ERASURES, "digest"))


def are_erased(user_keys: pl.Series, erased: Collection[str], key: bytes) -> pl.Series:
    """Whether each user was erased; false where there is no user."""
    if not erased:
        return pl.repeat(False, len(user_keys), dtype=pl.Boolean, eager=True)
    known = user_keys.unique().drop_nulls()
    gone = [user_key for user_key in known if digest_of(user_key, key) in erased]
    return user_keys.is_in(gone).fill_null(False)
