"""Keyed pseudonyms: HMAC-SHA-256 of the source's user id (RFC 2104), so that nobody without the key can tell who it is.

The key is a secret of the shop. It is read on the driver and reaches the executors outside the query plan.

On one machine it is made once, beside the lake and not in it, so that a copy of the lake holds no key. A lake inside a checkout
has its key in the user's own configuration folder instead: what lies in a checkout is committed, or shipped to every node of a cluster.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
from pathlib import Path

import polars as pl

from lib.pipeline import ROOT
from lib.settings import PrivacySettings

LENGTH = 32  # hex digits that are kept: 128 bits
LEAST_KEY_BYTES = 16


def pseudonyms(user_ids: pl.Series, key: bytes) -> pl.Series:
    """The first 32 hex digits of each id's HMAC; null and the empty id have none."""
    known = user_ids.unique()
    keys = [hmac.digest(key, text.encode(), "sha256").hex()[:LENGTH] if text else None for text in known]
    return user_ids.replace_strict(known, pl.Series(keys, dtype=pl.String), return_dtype=pl.String)


def fingerprint(key: bytes) -> str:
    """What tells one key from another and nothing of either; kept with the tables that its pseudonyms stand in."""
    return hashlib.sha256(b"cartwheel: fingerprint of a pseudonym key\0" + key).hexdigest()[:16]


def load_key(privacy: PrivacySettings, lake: str) -> bytes:
    """The key from the variable or the file that the settings name, else from the default file, which is made once.

    Raises:
        ValueError: there is no key, or it is too short.
    """
    if privacy.key_variable is not None:
        place, text = f"the variable {privacy.key_variable}", os.environ.get(privacy.key_variable)
        if text is None:
            raise ValueError(f"privacy.key_variable names {privacy.key_variable}, which is not set")
    else:
        if privacy.key_file is None and "://" in lake:
            raise ValueError(
                "no pseudonym key: name its file by privacy.key_file or its variable by privacy.key_variable"
            )
        path = Path(privacy.key_file).expanduser() if privacy.key_file else default_key_file(lake)
        place, text = f"the file {path}", _read_or_create(path, may_create=privacy.create_key)
    key = text.strip().encode()
    if len(key) < LEAST_KEY_BYTES:
        raise ValueError(
            f"the pseudonym key in {place} has {len(key)} bytes; it should have at least {LEAST_KEY_BYTES}"
        )
    return key


def default_key_file(lake: str) -> Path:
    """`<lake>.key` beside the lake; where that lies in a checkout, a file named after the lake in the user's configuration folder.

    A key that an earlier release left in the checkout is moved there.
    """
    beside = Path(f"{lake.rstrip('/')}.key").expanduser().absolute()
    if not any(folder == ROOT or (folder / ".git").exists() for folder in beside.parents):
        return beside
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    place = hashlib.sha256(str(beside).encode()).hexdigest()[:8]  # two checkouts may each hold a lake of one name
    outside = configuration / "cartwheel" / "keys" / f"{beside.stem}-{place}.key"
    outside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if beside.is_file() and not outside.exists():
        shutil.move(beside, outside)
    return outside


def _read_or_create(path: Path, *, may_create: bool) -> str:
    """The text of the key file; where it is absent and may be made, one of a new key that only its owner may read."""
    if may_create:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
    try:
        return path.read_text()
    except OSError as error:
        raise ValueError(f"no pseudonym key: {path}: {error.strerror}") from None
