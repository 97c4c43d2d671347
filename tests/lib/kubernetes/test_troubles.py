"""What a cluster says of a pod, as a kubelet of 1.36 puts it, becomes one line with what to do."""

from typing import Any

import pytest

from lib.kubernetes.troubles import end_of, trouble_of, waiting_for
from lib.runs.errors import ExitCode

PULL = (
    'Back-off pulling image "registry.example.com/none:1": ErrImagePull: failed to pull and unpack image '
    '"registry.example.com/none:1": failed to resolve image: failed to do request: Head '
    '"https://registry.example.com/v2/none/manifests/1": dial tcp: lookup registry.example.com: i/o timeout'
)


def pod(phase: str = "Pending", conditions: list[dict[str, Any]] | None = None, **state: Any) -> dict[str, Any]:
    container = {"name": "job", "image": "registry.example.com/none:1", "state": state}
    status = {"phase": phase, "containerStatuses": [container], "conditions": conditions or []}
    return {"metadata": {"name": "clean-1"}, "status": status}


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("ImagePullBackOff", PULL, "pod clean-1: its image cannot be fetched (registry.example.com/none:1: i/o timeout); build and push it, "),
        ("ErrImageNeverPull", "", "pod clean-1: its image is not on the node, and is not to be fetched (registry.example.com/none:1); build"),
        ("CreateContainerConfigError", 'secret "keys" not found', 'pod clean-1: it cannot be configured (secret "keys" not found); create the Secret'),
    ],
)  # fmt: skip
def test_what_keeps_a_pod_from_starting_is_told_with_what_to_do(reason: str, message: str, told: str) -> None:
    said = trouble_of(pod(waiting={"reason": reason, "message": message}))
    assert said is not None
    assert said.startswith(told)


def test_a_pod_that_only_starts_has_no_trouble() -> None:
    assert trouble_of(pod(waiting={"reason": "ContainerCreating"})) is None


def test_a_pod_without_room_waits() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    said = waiting_for(pod(conditions=[unscheduled]))
    assert said is not None
    assert said.startswith(
        "pod clean-1: no node has room for it (0/1 nodes are available: 1 Insufficient cpu); it starts when there is"
    )


def test_a_pod_killed_for_want_of_memory_failed_and_is_told_what_to_declare() -> None:
    code, said = end_of(pod("Failed", terminated={"reason": "OOMKilled", "exitCode": 137})) or (0, "")
    assert code == ExitCode.FAILED
    assert said.startswith("pod clean-1: killed for want of memory; declare more")


def test_a_pod_ends_with_its_own_exit_code() -> None:
    assert end_of(pod("Failed", terminated={"reason": "Error", "exitCode": 4})) == (
        4,
        "pod clean-1: Error with exit code 4",
    )
    assert end_of(pod("Running", running={})) is None
