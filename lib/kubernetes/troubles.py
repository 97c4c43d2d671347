"""Why a pod does not run, or has ended badly: what the cluster says of it, in one line with what to do."""

import re
from collections.abc import Sequence
from typing import Any

from lib.runs.errors import ExitCode

ENDED = ("Succeeded", "Failed")  # phases of a pod

# What will not change by waiting, by the reason that the kubelet gives.
STUCK = {
    "ErrImagePull": "its image cannot be fetched",
    "ImagePullBackOff": "its image cannot be fetched",
    "ErrImageNeverPull": "its image is not on the node, and is not to be fetched",
    "InvalidImageName": "its image's name is not valid",
    "CreateContainerConfigError": "it cannot be configured",
    "CreateContainerError": "it cannot be created",
    "RunContainerError": "it cannot be started",
}
ADVICE = {
    "image": "build and push it, or set kubernetes.spark_image and kubernetes.ray_image",
    "secret": "create the Secret, or name another by kubernetes.secrets",
    "configmap": "create the ConfigMap, or name another by kubernetes.config_map",
    "memory": "declare more for the job in lib/pipeline.py, or raise kubernetes.memory_frac",
    "room": "it starts when there is; add nodes, or lower kubernetes.cpu_frac and kubernetes.memory_frac",
}


def trouble_of(pod: dict[str, Any]) -> str | None:
    """What keeps a pod from running for good, in one line; None where nothing does."""
    for status in _containers(pod):
        waiting = status.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in STUCK:
            said = in_one_line(waiting.get("message", ""))
            if "Image" in reason:  # what happened stands at the end of what every layer said of it
                said = ": ".join(filter(None, (str(status.get("image", "")), said.rpartition(": ")[2])))
            return f"{_name(pod)}: {STUCK[reason]} ({said}); {_advice(reason, said)}"
    return None


def waiting_for(pod: dict[str, Any]) -> str | None:
    """What a pod waits for that may come, in one line; None where it does not wait."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            said = in_one_line(condition.get("message", ""))
            return f"{_name(pod)}: no node has room for it ({said.rstrip('.')}); {ADVICE['room']}"
    return None


def end_of(pod: dict[str, Any]) -> tuple[int, str] | None:
    """A pod's exit code and why it ended, in one line; None while it runs."""
    status = pod.get("status", {})
    if status.get("phase") not in ENDED:
        return None
    for container in _containers(pod):
        ended = container.get("state", {}).get("terminated")
        if ended is None:
            continue
        if ended.get("reason") == "OOMKilled":
            return ExitCode.FAILED, f"{_name(pod)}: killed for want of memory; {ADVICE['memory']}"
        return int(
            ended["exitCode"]
        ), f"{_name(pod)}: {ended.get('reason', 'ended')} with exit code {ended['exitCode']}"
    why = in_one_line(status.get("message") or status.get("reason") or "gone")
    return ExitCode.FAILED, f"{_name(pod)}: {why}"


def warning_of(events: Sequence[dict[str, Any]]) -> str | None:
    """The newest warning among an object's events."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    return in_one_line(warnings[-1].get("message", "")) if warnings else None


def in_one_line(text: object) -> str:
    """What a cluster says, without its line ends and wide spaces."""
    return " ".join(str(text).split())


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def _name(pod: dict[str, Any]) -> str:
    return f"pod {pod['metadata']['name']}"


def _advice(reason: str, said: str) -> str:
    if "Image" in reason:
        return ADVICE["image"]
    missing = re.search(r"(secret|configmap) \"", said)
    return ADVICE[missing[1]] if missing else "kubectl describe pod says more"
