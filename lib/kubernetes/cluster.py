"""The API server, as one user sees it: what a submission needs there, what runs, and what it refuses, in one line each.

Imports the client only where it is needed: it is the extra `kubernetes`.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lib.kubernetes.pods import INSTANCE_LABEL, NAME_LABEL, PART_OF, PART_OF_LABEL
from lib.kubernetes.troubles import ENDED, in_one_line
from lib.runs.errors import RetryableError, SettingError
from lib.settings import KubernetesSettings

CONNECT_SECONDS, READ_SECONDS = 5, 60
FIELD_OWNER = "cartwheel"
APPLY = "application/apply-patch+yaml"  # JSON is YAML
# Where the API keeps each kind of object, and of these the kinds that a submission may be.
PLACES = {
    "SparkApplication": "/apis/sparkoperator.k8s.io/v1beta2/namespaces/{namespace}/sparkapplications",
    "ScheduledSparkApplication": "/apis/sparkoperator.k8s.io/v1beta2/namespaces/{namespace}/scheduledsparkapplications",
    "RayJob": "/apis/ray.io/v1/namespaces/{namespace}/rayjobs",
    "RayService": "/apis/ray.io/v1/namespaces/{namespace}/rayservices",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "LocalQueue": "/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/localqueues",
    "ClusterQueue": "/apis/kueue.x-k8s.io/v1beta2/clusterqueues",
}
KINDS = (
    "ScheduledSparkApplication",
    "SparkApplication",
    "RayJob",
    "RayService",
    "Job",
    "Pod",
)  # a schedule before its runs, which bear its name
OPERATORS = {
    "SparkApplication": "the spark-operator",
    "ScheduledSparkApplication": "the spark-operator",
    "RayJob": "KubeRay",
    "RayService": "KubeRay",
}


@dataclass
class Cluster:
    """A cluster and one of its namespaces."""

    api: Any  # an ApiClient
    settings: KubernetesSettings

    @classmethod
    def of(cls, settings: KubernetesSettings) -> "Cluster":
        """The cluster that the kubeconfig names, or the one around this pod.

        Raises:
            SettingError: the client is not installed, or no kubeconfig or context is found.
        """
        try:
            from kubernetes import client, config  # noqa: PLC0415
        except ModuleNotFoundError:
            raise SettingError("Kubernetes needs its client: install cartwheel[kubernetes]") from None
        configuration = client.Configuration()
        try:
            file = os.environ.get("KUBECONFIG") or "~/.kube/config"
            config.load_kube_config(file, context=settings.context, client_configuration=configuration)
        except (config.ConfigException, OSError, ValueError) as error:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                said = in_one_line(error) or type(error).__name__
                raise SettingError(f"no cluster is known: set KUBECONFIG to a file that names one ({said})") from None
        configuration.retries = False
        return cls(client.ApiClient(configuration), settings)

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self.api.configuration.host)

    def create(self, manifest: dict[str, Any], *, try_only: bool = False) -> None:
        """Create an object, or only have the API server check that it would.

        Raises:
            SettingError: it is refused, or its kind, its namespace or something it names is missing.
            RetryableError: the server does not answer, or there is no room in the namespace's quota.
        """
        query = [("fieldManager", FIELD_OWNER), ("fieldValidation", "Strict")]
        query += [("dryRun", "All")] if try_only else []
        kind = manifest["kind"]
        with explained(self, f"create {kind} {manifest['metadata']['name']}", kind):
            self._call("POST", self._place(kind), query, manifest)

    def apply(self, manifest: dict[str, Any], *, try_only: bool = False) -> None:
        """Make an object what its manifest says, whether it is there or not; or only have the API server check that it would.

        Raises:
            SettingError, RetryableError: as for `create`.
        """
        query = [("fieldManager", FIELD_OWNER), ("fieldValidation", "Strict"), ("force", "true")]
        query += [("dryRun", "All")] if try_only else []
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        with explained(self, f"apply {kind} {name}", kind):
            self._open("PATCH", f"{self._place(kind)}/{name}", query, json.dumps(manifest), content_type=APPLY).read()

    def read(self, kind: str, name: str) -> dict[str, Any] | None:
        """An object; None where there is none."""
        with explained(self, f"read {kind} {name}", kind):
            return self._call_or_none("GET", f"{self._place(kind)}/{name}")

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and what belongs to it; what is gone already is no error."""
        with explained(self, f"delete {kind} {name}", kind):
            self._call_or_none("DELETE", f"{self._place(kind)}/{name}", [("propagationPolicy", "Background")])

    def submitted(self, kind: str, name: str | None = None) -> list[dict[str, Any]]:
        """The objects of a kind that this suite submitted, all or those of one name; none where the kind is unknown."""
        labels = f"{PART_OF_LABEL}={PART_OF}" + (f",{INSTANCE_LABEL}={name}" if name else f",{NAME_LABEL}")
        with explained(self, f"list {kind}s", kind):
            found = self._call_or_none("GET", self._place(kind), [("labelSelector", labels)])
        return list(found["items"]) if found else []

    def events_of(self, name: str) -> list[dict[str, Any]]:
        """What happened to an object, the newest last."""
        with explained(self, "list events", "Event"):
            found = self._call("GET", self._place("Event"), [("fieldSelector", f"involvedObject.name={name}")])
        return sorted(
            found["items"], key=lambda event: event["lastTimestamp"] or event["metadata"]["creationTimestamp"]
        )

    def log(self, pod: str, container: str, *, follow: bool) -> Iterator[str]:
        """The lines that a pod's container prints; with `follow` until it ends."""
        place, query = f"{self._place('Pod')}/{pod}/log", [("container", container), ("follow", str(follow).lower())]
        with explained(self, f"read the log of {pod}", "Pod"):
            yield from self._lines(place, query, seconds=None if follow else READ_SECONDS)

    def ended(self, pod: str) -> dict[str, Any] | None:
        """A pod as it has ended, after waiting for that; None where it is gone, or has not ended in a minute."""
        found = self.read("Pod", pod)
        if found is None or found["status"].get("phase") in ENDED:
            return found
        query = [("watch", "true"), ("timeoutSeconds", str(READ_SECONDS)), ("fieldSelector", f"metadata.name={pod}")]
        query.append(("resourceVersion", found["metadata"]["resourceVersion"]))
        with explained(self, f"watch {pod}", "Pod"):
            for line in self._lines(self._place("Pod"), query, seconds=None):
                told = json.loads(line)["object"]
                if told.get("status", {}).get("phase") in ENDED:
                    return dict(told)
        return None

    def _place(self, kind: str) -> str:
        return PLACES[kind].format(namespace=self.settings.namespace)

    def _lines(self, place: str, query: Sequence[tuple[str, str]], seconds: int | None) -> Iterator[str]:
        """The lines of an answer as they come."""
        rest = b""
        for part in self._open("GET", place, query, seconds=seconds).response.stream():
            *lines, rest = (rest + part).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")

    def _call_or_none(self, method: str, place: str, query: Sequence[tuple[str, str]] = ()) -> dict[str, Any] | None:
        """Ask for one thing; None where there is nothing at its place."""
        from kubernetes.client import ApiException  # noqa: PLC0415

        try:
            return self._call(method, place, query)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _call(self, method: str, place: str, query: Sequence[tuple[str, str]] = (), body: Any = None) -> dict[str, Any]:
        """Ask for one thing, and take the whole answer."""
        return dict(json.loads(self._open(method, place, query, body, READ_SECONDS).read()))

    def _open(
        self,
        method: str,
        place: str,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        seconds: int | None = READ_SECONDS,
        content_type: str = "application/json",
    ) -> Any:
        """Ask for one thing; the answer is read by the caller.

        Raises:
            ApiException: it is refused.
        """
        from kubernetes.client import ApiException  # noqa: PLC0415

        request = self.api.param_serialize(
            *(method, place),
            query_params=[*query],
            header_params={"Accept": "application/json, */*", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self.api.call_api(*request, _request_timeout=(CONNECT_SECONDS, seconds))
        if not 200 <= response.status < 300:
            response.read()
            raise ApiException(http_resp=response)
        return response


@contextmanager
def explained(cluster: Cluster, what: str, kind: str) -> Iterator[None]:
    """Say in one line what the API server refused, and what to do.

    Raises:
        SettingError: a retry would end alike.
        RetryableError: one may help.
    """
    from kubernetes.client import ApiException  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        yield
    except ApiException as error:
        raise _told(error, what, kind, cluster.settings) from None
    except (HTTPError, OSError) as error:
        reason = in_one_line(getattr(error, "reason", None) or error).rpartition(": ")[2]
        raise RetryableError(f"no API server answers at {cluster.server}: {reason}") from None


def _told(error: Any, what: str, kind: str, settings: KubernetesSettings) -> ValueError:
    """An answer of the API server that is no success: the first of these rules that holds."""
    said, status, namespace = _message_of(error), error.status, settings.namespace
    account = said.partition(f"account {namespace}/")[2].partition(":")[0]
    apply = "kubectl apply -k conf/kubernetes/overlays/..."
    rules: tuple[tuple[bool, type[ValueError], str], ...] = (
        (status == 401, SettingError, "the API server does not know who asks: sign in again, or mend the kubeconfig"),
        (
            status == 403 and "exceeded quota" in said,
            RetryableError,
            f"no room for it in the quota of {namespace}: {said.partition('exceeded quota: ')[2]}",
        ),
        (
            status == 403 and "violates PodSecurity" in said,
            SettingError,
            f"{namespace} does not admit the pod: {said.partition('violates ')[2]}",
        ),
        (
            status == 403 and "error looking up service account" in said,
            SettingError,
            f"{namespace} has no service account {account}: {apply}",
        ),
        (
            status == 403,
            SettingError,
            f"not allowed to {what} in {namespace}: ask for the role submitter of conf/kubernetes/base ({said})",
        ),
        (status == 404 and "namespaces" in said, SettingError, f"there is no namespace {namespace}: {apply}"),
        (
            status == 404 and kind in OPERATORS,
            SettingError,
            f"the cluster has no {kind}: install {OPERATORS.get(kind)} (docs/operations.md)",
        ),
        (status in (429, 500, 502, 503, 504), RetryableError, f"the API server cannot {what} now: {said}"),
        (True, SettingError, f"the API server refused to {what}: {said}"),
    )
    return next(error_kind(text) for holds, error_kind, text in rules if holds)


def _message_of(error: Any) -> str:
    try:
        return in_one_line(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        return str(error.reason)
