"""What tasks that run together tell each other: batches of Arrow rows, from memory to memory, over Arrow Flight.

Each task serves what it has for its peers and takes what they have for it. Whoever asks must show the token that the driver
has drawn for these tasks; as between Spark's own executors, nothing is encrypted. A peer that works answers within seconds,
if only that it is not yet ready; one that does not answer is lost, which its peers notice within SILENCE_SECONDS.
"""

import hmac
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.flight as fl

from lib.engines.parts import PEER_IS_LOST, Gang
from lib.runs.errors import RetryableError

HEADER = "authorization"
WAIT_SECONDS = 2.0  # that a task lets a peer wait before it says that it has nothing yet
SILENCE_SECONDS = 30.0  # after which a peer that says nothing is lost
NOT_YET = pa.schema([], metadata={"not yet": ""})
NUM_ROWS = b"number of rows"  # in the schema's metadata: how many there are in all
BYTES_AT_ONCE = 64 << 20  # of what a peer takes with one call, which must end before it is thought lost
BYTES_OF_MESSAGE = 4 << 20
DIRECTLY = [("grpc.enable_http_proxy", 0)]  # peers are no business of a proxy


class Exchange:
    """One task's end of the exchange; all of its tasks must make the same swaps in the same order."""

    def __init__(self, gang: Gang, token: str) -> None:
        self.rank, self.size = gang.rank, gang.size
        self._gang = gang
        self._server = _Server(gang.host, token) if gang.size > 1 else None
        self._peers: list[fl.FlightClient] = []
        headers = [(HEADER.encode(), token.encode())]
        self._options = fl.FlightCallOptions(timeout=SILENCE_SECONDS, headers=headers)
        self._ends = 0

    def __enter__(self) -> Self:
        if self._server is not None:
            addresses = self._gang.gather(f"grpc://{self._gang.host}:{self._server.port}")
            self._peers = [fl.FlightClient(address, generic_options=DIRECTLY) for address in addresses]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._server is None:
            return
        try:
            if kind is None:
                self._gang.gather("done")  # a peer may still be taking what is served here
        finally:
            for peer in self._peers:
                peer.close()
            self._server.end()

    def swap(self, name: str, outgoing: Sequence[pa.Table]) -> list[pa.Table]:
        """Give each peer its rows and take theirs, by rank; the own are passed on. `name` is not used again.

        Raises:
            RetryableError: a peer is lost.
        """
        assert len(outgoing) == self.size
        if self._server is not None:
            self._server.offer(name, {rank: rows for rank, rows in enumerate(outgoing) if rank != self.rank})
        return [outgoing[rank] if rank == self.rank else self._taken(name, rank) for rank in range(self.size)]

    def _taken(self, name: str, peer: int) -> pa.Table:
        """What a peer has for this task, by as many calls as it takes."""
        pieces: list[pa.Table] = []
        with _lost(peer, self.size):
            while not pieces or sum(map(len, pieces)) < int(pieces[0].schema.metadata[NUM_ROWS]):
                ticket = fl.Ticket(json.dumps([name, self.rank, sum(map(len, pieces))]))
                rows = self._peers[peer].do_get(ticket, self._options).read_all()
                if not rows.schema.equals(NOT_YET, check_metadata=True):
                    pieces.append(rows)
        return pa.concat_tables(pieces)


@contextmanager
def _lost(peer: int, size: int) -> Iterator[None]:
    try:
        yield
    except (fl.FlightError, pa.ArrowException, OSError) as error:
        what = str(error).partition("\n")[0][:200]
        raise RetryableError(f"{PEER_IS_LOST} (number {peer + 1} of {size}): {what}") from None


class _Server(fl.FlightServerBase):  # type: ignore[misc]
    """Serves each peer what is offered to it, once."""

    def __init__(self, host: str, token: str) -> None:
        self._offered: dict[tuple[str, int], pa.Table] = {}
        self._changed = threading.Condition()
        super().__init__(f"grpc://{host}:0", middleware={"token": _TokenCheck(token)})

    def offer(self, name: str, rows: Mapping[int, pa.Table]) -> None:
        with self._changed:
            self._offered |= {(name, peer): of_peer for peer, of_peer in rows.items()}
            self._changed.notify_all()

    def do_get(self, context: fl.ServerCallContext, ticket: fl.Ticket) -> fl.RecordBatchStream:
        name, peer, start = json.loads(ticket.ticket)
        with self._changed:
            is_there: Callable[[], bool] = lambda: (name, peer) in self._offered  # noqa: E731
            if not self._changed.wait_for(is_there, WAIT_SECONDS):
                return fl.RecordBatchStream(NOT_YET.empty_table())
            rows = self._offered[name, peer]
            row_bytes = max(1, rows.nbytes // max(1, rows.num_rows))
            end = start + max(1, BYTES_AT_ONCE // row_bytes)
            if end >= rows.num_rows:
                del self._offered[name, peer]
        told = rows.slice(start, end - start).replace_schema_metadata(
            {**(rows.schema.metadata or {}), NUM_ROWS: str(rows.num_rows)}
        )
        batches = told.to_batches(max(1, BYTES_OF_MESSAGE // row_bytes))
        return fl.RecordBatchStream(pa.RecordBatchReader.from_batches(told.schema, batches))

    def end(self) -> None:
        """Serve no more, and wait for no call that a lost peer has left open."""
        threading.Thread(target=self.shutdown, daemon=True).start()


class _TokenCheck(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Turns away who does not show the token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def start_call(self, info: fl.CallInfo, headers: Mapping[str, Sequence[Any]]) -> None:
        shown = [value for name, values in headers.items() if name.lower() == HEADER for value in values]
        if len(shown) != 1 or not hmac.compare_digest(str(shown[0]), self._token):
            raise fl.FlightUnauthenticatedError("another token")
