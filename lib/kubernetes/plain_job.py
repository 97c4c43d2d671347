"""A job that needs no engine (report, erase, maintain) as a Job of Kubernetes itself, in the image of Spark jobs."""

from typing import Any

from lib.kubernetes.pods import KEPT_SECONDS, RETRIES, Submission, resources, template
from lib.runs.errors import RETRY_IS_IN_VAIN

ACCOUNT = "spark-executor"  # it asks nothing of the API server


def plain_job(submission: Submission) -> dict[str, Any]:
    """The Job of one run; an end that a retry cannot mend is not retried."""
    own = {
        "image": submission.image,
        "args": ["python", *submission.command],
        "resources": resources(submission.driver, submission.settings),
    }
    pod = template(submission, "job", size=submission.driver, account=ACCOUNT, own=own)
    pod["spec"]["restartPolicy"] = "Never"
    final = {"containerName": "job", "operator": "In", "values": [int(code) for code in RETRY_IS_IN_VAIN]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": submission.metadata,
        "spec": {
            "backoffLimit": RETRIES,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": final}]},
            "template": pod,
        },
    }
