"""On Open Bandit: the uniform log values its own policy at its mean click rate."""

from acceptance import lakes
from acceptance.claims import Claim
from acceptance.policy import uniform_log_values_itself


def check() -> list[Claim]:
    """On a lake of the shipped 10,000 impressions a policy."""
    return [uniform_log_values_itself(lakes.real_log("obd"))]
