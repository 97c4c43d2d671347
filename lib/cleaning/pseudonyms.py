"""Keyed pseudonyms: HMAC-SHA-256 of the source's user and order ids (RFC 2104), so that only the key identifies them.

The key is the shop's secret. It is read on the driver and reaches the executors outside the query plan.

On one machine it is created once, next to the lake rather than in it, so that a copy of the lake holds no key. The key
of a lake inside a checkout is kept in the user's configuration folder instead, because a checkout may be committed, or
shipped to every node of a cluster.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
from pathlib import Path
from typing import Literal

import polars as pl

from lib.pipeline import ROOT
from lib.runs.errors import SettingError
from lib.settings import PrivacySettings

LENGTH = 32  # hex digits that are kept: 128 bits
LEAST_KEY_BYTES = 16


def pseudonyms(ids: pl.Series, key: bytes, *, of: Literal["user", "order"] = "user") -> pl.Series:
    """The first 32 hex digits of each id's HMAC; null for a null or empty id.

    Orders have a key of their own, derived from the shop's, so that the same text as a user and as an order differs.
    """
    secret = key if of == "user" else hmac.digest(key, f"cartwheel: ids of {of}s".encode(), "sha256")
    known = ids.unique()
    keys = [hmac.digest(secret, text.encode(), "sha256").hex()[:LENGTH] if text else None for text in known]
    return ids.replace_strict(known, pl.Series(keys, dtype=pl.String), return_dtype=pl.String)


def fingerprint(key: bytes) -> str:
    """A short hash that identifies a key without revealing it; stored with the tables that hold its pseudonyms."""
    return hashlib.sha256(b"cartwheel: fingerprint of a pseudonym key\0" + key).hexdigest()[:16]


def load_key(privacy: PrivacySettings, lake: str) -> bytes:
    """The key from the variable or file that the settings name, else from the default file, which is created once.

    Raises:
        ValueError: there is no key, or it is too short.
    """
    if privacy.key_variable is not None:
        place, text = f"the variable {privacy.key_variable}", os.environ.get(privacy.key_variable)
        if text is None:
            raise SettingError(
                f"privacy.key_variable names {privacy.key_variable}, which is not set; set it to the key"
            )
    else:
        if privacy.key_file is None and "://" in lake:
            raise ValueError(
                "no pseudonym key: set privacy.key_file to its file or privacy.key_variable to its variable"
            )
        path = Path(privacy.key_file).expanduser() if privacy.key_file else default_key_file(lake)
        place, text = f"the file {path}", _read_or_create(path, may_create=privacy.create_key)
    key = text.strip().encode()
    if len(key) < LEAST_KEY_BYTES:
        raise SettingError(f"the pseudonym key in {place} has {len(key)} bytes; it needs at least {LEAST_KEY_BYTES}")
    return key


def default_key_file(lake: str) -> Path:
    """`<lake>.key` next to the lake.

    For a lake in a checkout, a file named after it in the user's configuration folder.

    A key that an earlier release left in the checkout is moved there.
    """
    beside = Path(f"{lake.rstrip('/')}.key").expanduser().absolute()
    if not any(folder == ROOT or (folder / ".git").exists() for folder in beside.parents):
        return beside
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    place = hashlib.sha256(str(beside).encode()).hexdigest()[:8]  # two checkouts may hold lakes of the same name
    outside = configuration / "cartwheel" / "keys" / f"{beside.stem}-{place}.key"
    outside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if beside.is_file() and not outside.exists():
        shutil.move(beside, outside)
    return outside


def _read_or_create(path: Path, *, may_create: bool) -> str:
    """The text of the key file.

    If it is missing and `may_create`, a new key is written that only its owner can read.
    """
    if may_create:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
    try:
        return path.read_text()
    except OSError as error:
        raise SettingError(f"no pseudonym key: {path}: {error.strerror}") from None
