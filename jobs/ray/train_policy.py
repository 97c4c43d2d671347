"""train_policy: gold/decisions -> gold/policy_values, a version of the model `policy`.

Learns Q with tabular Q-learning, a readable baseline, and with RLlib's DQN: first on the train split, to choose each
policy's temperature on valid, then anew on everything before `as_of`, to be valued on test and to serve. As of the log's
end there is no test split, and what was learned on train is judged on valid in its place.

Values are doubly robust estimates; per-decision importance sampling stands beside them as a diagnostic. DQN's policy is
promoted only when the lower bound of its value beats the best logging policy, the incumbent. Tasks read the decisions; of
more than `max_decisions` the driver, which draws the batches, gets those of a draw of users. On a simulated log the true
values are written as well. Checkpoints lie in the run's folder, and a killed run resumes from the last one. A rerun, a
retry or a kill changes nothing.
"""

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import reduce
from typing import Any

import pyarrow as pa
import ray
import torch
from pydantic import Field, ValidationInfo, field_validator

from lib.engines.ray_tasks import RayRun
from lib.engines.ray_train import ray_session
from lib.runs.errors import PrivateValueError
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import AS_OF_PROPERTY, REWARD_WEIGHTS
from rl.dataset.decisions import Decisions
from rl.dataset.logged import RewardWeights
from rl.dataset.sample import decisions_of_some, drawn
from rl.learning import qnet
from rl.learning.tabular import TabularQ, fit_tabular
from rl.learning.train import DqnOptions, train_dqn
from rl.market.truth import Simulation, is_known, logging_values, policy_values
from rl.ope.rows import Row, logging_rows, policy_rows, true_rows
from rl.ope.target import choose_temperature, on_log
from rl.ope.valuation import Valuation, Verdict, verdict
from rl.policies import ActionValues, ServedPolicy

SPLITS = ("train", "valid", "test")
UPDATES_PER_CALL, CHECKPOINT_EVERY = 100, 500  # minibatches
SERVED = "dqn"  # the policy that would serve; the tabular one is the baseline
CHECKPOINT = "qnet.safetensors"


class TrainPolicySettings(JobSettings):
    """How Q is learned, how greedy the served policy may be, and the evidence that a promotion needs."""

    # On the default market a learning rate of 1e-3 with tau 0.01 reaches in 1,500 minibatches the true value that 3e-4 with
    # 0.005 reaches in 3,000, and keeps it at 6,000.
    max_decisions: int = Field(
        1_000_000,
        ge=1000,
        description="approximate number of decisions that policies are learned from and judged by; of more, those of a "
        "draw of users. The driver holds them: about 3 KB each",
    )
    discount: float = Field(0.9, ge=0, le=1, description="discount factor per decision")
    num_updates: int = Field(2000, ge=1, description="maximum number of minibatches that DQN learns from")
    max_epochs: float = Field(
        12, gt=0, description="maximum number of DQN's passes over the log, but no fewer than 100 minibatches"
    )
    batch_size: int = Field(256, ge=1, description="transitions in a minibatch")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's learning rate")
    tau: float = Field(
        0.01,
        gt=0,
        le=1,
        description="how far the target network moves towards the online weights after every minibatch",
    )
    hidden: tuple[int, ...] = Field((64, 64), min_length=1, description="widths of the layers that score a candidate")
    num_learners: int = Field(
        0,
        ge=0,
        description="remote learners of RLlib, which share every minibatch equally; 0 learns in the job's own process",
    )
    num_state_cells: int = Field(16, ge=1, description="cells into which the tabular baseline groups states")
    num_candidate_cells: int = Field(64, ge=1, description="cells into which the tabular baseline groups candidates")
    epsilon: float = Field(0.1, ge=0, lt=1, description="share of decisions left to the logging policy")
    min_effective_frac: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="minimum effective sample size of a temperature, as a share of the validation episodes",
    )
    incumbent: str | None = Field(
        None,
        min_length=1,
        description="logging policy that a learned one must beat to be promoted; unset: the best one on the same split",
    )
    min_effective_episodes: float = Field(
        50,
        ge=0,
        description="minimum number of episodes for a promotion: effective ones of the learned policy, and the incumbent's own",
    )
    num_resamples: int = Field(1000, ge=100, description="bootstrap resamples of the users")
    true_value_sessions: int = Field(3000, ge=100, description="sessions simulated for a true value (market only)")
    seed: int = Field(0, ge=0, description="of network, batches, cells, folds and bootstrap")

    @field_validator("num_learners")
    @classmethod
    def shares_a_batch(cls, value: int, others: ValidationInfo) -> int:
        size = others.data.get("batch_size", 0)
        if value and size % value:
            raise ValueError(f"should divide batch_size, which is {size}, so that each learner gets an equal share")
        return value


def dqn_options(settings: TrainPolicySettings, *, num_rows: int, use_gpu: bool) -> DqnOptions:
    """DQN's hyperparameters for a log of `num_rows` decisions; a short log gets fewer minibatches."""
    most = max(100, math.ceil(settings.max_epochs * num_rows / settings.batch_size))
    return DqnOptions(
        discount=settings.discount,
        hidden=settings.hidden,
        learning_rate=settings.learning_rate,
        tau=settings.tau,
        batch_size=settings.batch_size,
        num_updates=min(settings.num_updates, most),
        updates_per_call=UPDATES_PER_CALL,
        checkpoint_every=CHECKPOINT_EVERY,
        num_learners=settings.num_learners,
        use_gpu=use_gpu,
        seed=settings.seed,
    )


def learned_rows(
    dataset: str,
    valued: Valuation,
    policies: Mapping[str, ServedPolicy],
    settings: TrainPolicySettings,
    version: str,
) -> tuple[list[Row], Verdict]:
    """Rows of the learned policies, and the verdict on the one that would serve, without it in its row."""
    rows, said = [], Verdict("keep_logging", "not valued")
    for name, policy in policies.items():
        estimates = valued.target(on_log(policy, valued.decisions), seed=settings.seed)
        rows += policy_rows(name, dataset, version, valued.num_rewarded(), estimates)
        if name == SERVED:
            said = verdict(
                estimates["dr"],
                valued.logging_policies(),
                incumbent=settings.incumbent,
                min_effective_episodes=settings.min_effective_episodes,
            )
    return rows, said


def with_verdict(rows: list[Row], dataset: str, said: Verdict) -> list[Row]:
    """The verdict stands in the row that decides it: the doubly robust estimate of the served policy on `dataset`."""
    decisive = (SERVED, dataset, "dr")
    return [
        row | (said._asdict() if (row["policy"], row["dataset"], row["estimator"]) == decisive else {}) for row in rows
    ]


def valuation(decisions: Decisions, settings: TrainPolicySettings) -> Valuation:
    """A valuation with the job's discount and bootstrap."""
    return Valuation.on(decisions, discount=settings.discount, num_resamples=settings.num_resamples, seed=settings.seed)


def tabular_q(train: Decisions, settings: TrainPolicySettings) -> TabularQ:
    """The tabular baseline."""
    return fit_tabular(
        train,
        discount=settings.discount,
        num_state_cells=settings.num_state_cells,
        num_candidate_cells=settings.num_candidate_cells,
        seed=settings.seed,
    )


def require_same_time(run: Run) -> None:
    """Check that the decisions were written as of the run's time.

    Raises:
        ValueError: they were not.
    """
    written = run.property_of("gold/decisions", AS_OF_PROPERTY)
    if datetime.fromisoformat(written) != run.as_of:
        raise ValueError(
            f"gold/decisions is as of {written}, and this run as of {run.as_of.isoformat()}; run decisions first with the "
            "same --as-of"
        )


def read_splits(run: RayRun, settings: TrainPolicySettings) -> tuple[Decisions, dict[str, Decisions]]:
    """All logged decisions and those of each split; of more than `max_decisions` those of a draw of users."""
    num_logged = run.lake.num_rows("gold/decisions", run.version_of("gold/decisions"))
    user_frac = min(1.0, settings.max_decisions / num_logged)
    of_splits = (run.files_of({name: "gold/decisions"}, holding={"split": [name]}) for name in SPLITS)
    files = reduce(lambda one, other: one.union(other), of_splits)
    rows = drawn(files.then(decisions_of_some, user_frac=user_frac).collected())
    if user_frac < 1:
        run.log("learns from a draw of users", decisions=len(rows), of=num_logged)
    decisions, split = Decisions.from_arrow(rows), rows["split"].to_numpy()
    return decisions, {
        **{name: decisions.take(split == name) for name in SPLITS},
        "known": decisions.take(split != "test"),
    }


def require_incumbent(decisions: Decisions, settings: TrainPolicySettings) -> None:
    """Check that the log knows the incumbent that the settings name.

    Raises:
        ValueError: it decided no episode alone.
    """
    names = sorted(set(decisions.episode_policies))
    if settings.incumbent is not None and settings.incumbent not in names:
        given = f"train_policy.incumbent = {settings.incumbent}: no logging policy of this log; "
        raise PrivateValueError(
            f"{given}expected one of {', '.join(names[:20])}, or no incumbent for the best of them",
            recorded=f"{given}expected one of the {len(names)} in gold/decisions",
        )


def learn(
    run: Run, decisions: Decisions, settings: TrainPolicySettings, name: str, curves: dict[str, list[float]]
) -> dict[str, ActionValues]:
    """Q of every method on the same decisions; DQN's checkpoints lie in the run's folder under `name`, its losses in `curves`."""
    tabular = tabular_q(decisions, settings)
    run.log(f"learned tabular Q on {name}", decisions=len(decisions), cells=tabular.table.size)
    dqn = dqn_options(settings, num_rows=len(decisions), use_gpu=run.settings.cluster.use_gpu)

    losses = curves.setdefault(f"loss of DQN on {name}", [])

    def on_progress(num_updates: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        if num_updates % 500 == 0 or num_updates == dqn.num_updates:
            run.log(f"learning DQN on {name}", updates=f"{num_updates}/{dqn.num_updates}", loss=metrics["loss"])

    network = train_dqn(decisions, dqn, run.files("policy") / name, on_progress=on_progress)
    return {"tabular": tabular, SERVED: network}


def choose_policies(
    run: Run, parts: Mapping[str, Decisions], settings: TrainPolicySettings, curves: dict[str, list[float]]
) -> tuple[dict[str, ServedPolicy], dict[str, ServedPolicy]]:
    """The policies learned on train with their temperatures chosen on valid, and as greedy ones learned on all that is known."""
    chosen_on = parts["valid"] if len(parts["valid"]) else parts["train"]
    if not len(parts["valid"]):
        run.log("no validation episode: the temperatures are chosen on train")
    values = learn(run, parts["train"], settings, "train", curves)
    refitted = learn(run, parts["known"], settings, "known", curves) if len(parts["valid"]) else values
    chosen, served = {}, {}
    for name in values:
        temperature = choose_temperature(
            values[name], chosen_on, epsilon=settings.epsilon, min_effective_frac=settings.min_effective_frac
        )
        chosen[name] = ServedPolicy(values[name], temperature.value, settings.epsilon)
        as_greedy = temperature.for_values(refitted[name], chosen_on)
        served[name] = ServedPolicy(refitted[name], as_greedy, settings.epsilon)
    return chosen, served


def simulation(run: Run, dataset: str, settings: TrainPolicySettings) -> Simulation | None:
    """The sessions of `dataset`, to be simulated for true values; None where the log is not the simulator's."""
    if run.mapping.name != "market" or not is_known(run.lake):
        return None
    times = run.times.at(run.as_of)
    return Simulation(
        run.lake.absolute(),
        since=times.test_from if dataset == "test" else times.valid_from,
        until=times.end if dataset == "test" else times.test_from,
        rewards=RewardWeights(**json.loads(run.property_of("gold/decisions", REWARD_WEIGHTS))),
        discount=settings.discount,
        num_sessions=settings.true_value_sessions,
    )


def start(function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a Ray task; returns the reference of its result."""
    return ray.remote(function).remote(*arguments)


def keep(run: Run, network: qnet.CandidateQNet, temperature: float, settings: TrainPolicySettings) -> None:
    """Write the settings and the network, with what serving it needs, into the run's folder."""
    folder = run.files("policy")
    (folder / "settings.json").write_text(json.dumps(settings.model_dump(mode="json"), indent=2))
    served = {"temperature": temperature, "epsilon": settings.epsilon}
    qnet.save(network, folder / CHECKPOINT, tables=run.inputs, **served)


def publish(
    run: Run, network: qnet.CandidateQNet, said: Verdict, rows: list[Row], curves: Mapping[str, list[float]]
) -> None:
    """Register the model, promoted or as a candidate, and commit the values."""
    folder = run.files("policy")
    run.register_model(
        "policy",
        folder,
        checkpoint=folder / CHECKPOINT,
        num_parameters=sum(p.numel() for p in network.parameters()),
        status="promoted" if said.verdict == "promote" else "candidate",
        reason=said.reason,
        curves=curves,
    )
    run.commit_arrow("gold/policy_values", pa.Table.from_pylist(rows, schema=contract("gold/policy_values").schema))


def learn_and_value(
    run: Run, decisions: Decisions, parts: Mapping[str, Decisions], settings: TrainPolicySettings
) -> tuple[ServedPolicy, Verdict, list[Row], dict[str, list[float]]]:
    """The policy that would serve, the verdict on it, the rows of gold/policy_values, and DQN's losses."""
    sizes = {name: len(parts[name]) for name in SPLITS}
    judged_on = "test" if sizes["test"] else "valid"
    simulated = simulation(run, judged_on, settings)
    truth = [start(logging_values, simulated)] if simulated else []  # goes on while the policies are learned
    curves: dict[str, list[float]] = {}
    chosen, served = choose_policies(run, parts, settings, curves)
    policies = {"valid": chosen, "test": served}
    if simulated:
        truth += [start(policy_values, simulated, {name: of}) for name, of in policies[judged_on].items()]
    rows = logging_rows("all", valuation(decisions, settings), run.run_id)
    for dataset in (name for name in policies if sizes[name]):
        valued = valuation(parts[dataset], settings)
        found, said = learned_rows(dataset, valued, policies[dataset], settings, run.run_id)
        rows += logging_rows(dataset, valued, run.run_id) + found
    rows = with_verdict(rows, judged_on, said)
    run.log(f"verdict on {judged_on}, {said.verdict}: {said.reason}")
    if truth:
        values = {name: value for part in ray.get(truth) for name, value in part.items()}
        rows += true_rows(values, judged_on, run.run_id)
    return served[SERVED], said, rows, curves


def main(settings: TrainPolicySettings) -> None:
    with start_run("train_policy", settings, RayRun) as run:
        torch.set_num_threads(1)  # one thread, so that jobs on a small machine do not slow each other down
        require_same_time(run)
        with ray_session(settings.cluster):
            decisions, parts = read_splits(run, settings)
            sizes = {name: len(parts[name]) for name in SPLITS}
            run.log("decisions", **sizes, episodes=decisions.num_episodes)
            if not parts["train"].is_transition.any() or not (sizes["test"] or sizes["valid"]):
                run.skip(
                    "no logged decision before the validation window to learn from, or none later to judge a policy by"
                )
            require_incumbent(decisions, settings)
            policy, said, rows, curves = learn_and_value(run, decisions, parts, settings)
        network = policy.values
        assert isinstance(network, qnet.CandidateQNet)
        keep(run, network, policy.temperature, settings)
        publish(run, network, said, rows, curves)


if __name__ == "__main__":
    main(TrainPolicySettings.from_command_line())
