"""What a broadcast variable looks like to code that knows no Spark: a value that reaches the tasks outside the query plan."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


class Broadcast(Protocol[Value_co]):
    """Holds a value that is the same in every task."""

    @property
    def value(self) -> Value_co: ...


@dataclass(frozen=True)
class InProcess(Generic[Value]):
    """The same for tasks that run in this process, without Spark."""

    value: Value
