"""Who may ask, how often, and how much: bearer tokens, a bucket of requests for each, and a bound on what waits."""

import hashlib
import hmac
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lib.runs.errors import SettingError

LEAST_TOKEN = 16  # characters


def load_tokens(variable: str | None, file: str | None) -> tuple[str, ...]:
    """The tokens, one a line or divided by blanks, of a variable and a file; none where neither is named.

    Raises:
        SettingError: what is named holds none, or one that is too short.
    """
    found: list[str] = []
    if variable is not None:
        if variable not in os.environ:
            raise SettingError(f"serve.token_variable names {variable}, which is not set; set it to the tokens")
        found += os.environ[variable].split()
    if file is not None:
        try:
            found += Path(file).expanduser().read_text().split()
        except OSError as error:
            raise SettingError(f"serve.token_file: {file}: {error.strerror}") from None
    if (variable or file) and not found:
        raise SettingError("the variable or file of serve's tokens holds none")
    if any(len(token) < LEAST_TOKEN for token in found):
        raise SettingError(f"a token of serve has fewer than {LEAST_TOKEN} characters")
    return tuple(found)


class Bucket:
    """A token bucket: `per_second` requests on average, `burst` at once."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._at = burst, time.monotonic()

    def take(self) -> float:
        """Take one; returns 0, or the seconds after which there is one again."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second


class Refused(NamedTuple):
    """Why a request may not go on."""

    status: int
    code: str
    message: str
    retry_after: float | None = None


class Gate:
    """Knows the tokens by their hashes alone; without any, everyone may ask and shares one bucket."""

    def __init__(self, tokens: Sequence[str], *, per_second: float, burst: float) -> None:
        self._hashes = [hashlib.sha256(token.encode()).digest() for token in tokens]
        self._buckets = [Bucket(per_second, burst) for _ in tokens] or [Bucket(per_second, burst)]

    def admit(self, authorization: bytes | None) -> Refused | None:
        """Why a request with this header is refused; None where it may go on."""
        place = 0
        if self._hashes:
            scheme, _, token = (authorization or b"").partition(b" ")
            given = hashlib.sha256(token.strip()).digest()
            found = [hmac.compare_digest(given, known) for known in self._hashes]  # all, so that the time tells nothing
            if scheme.lower() != b"bearer" or not any(found):
                return Refused(401, "unauthorized", "send a valid token: Authorization: Bearer ...")
            place = found.index(True)
        wait = self._buckets[place].take()
        if wait:
            return Refused(429, "too_many_requests", f"this token may ask again in {wait:.1f} s", wait)
        return None
