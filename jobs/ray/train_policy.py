"""train_policy: gold/decisions -> gold/policy_values, a version of the model `policy`.

Learns Q on the training split with tabular Q-learning, a readable baseline, and with RLlib's DQN. Chooses each policy's
temperature on valid and estimates its value on test, by per-decision self-normalised importance sampling and by the doubly
robust estimator. DQN's policy is promoted only when the lower bound of its value beats the logging policy's value. On a
simulated log the true values are written as well. Checkpoints lie in the run's folder, and a killed run resumes from the last
one. A rerun, a retry or a kill changes nothing.
"""

import json
import math
from typing import Any

import pyarrow as pa
import ray
import torch
from pydantic import Field

from lib.engines.ray_train import ray_session
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.tables import contract
from lib.tables.gold import REWARD_WEIGHTS
from rl.dataset.decisions import COLUMNS, Decisions
from rl.dataset.logged import RewardWeights
from rl.learning import qnet
from rl.learning.tabular import TabularQ, fit_tabular
from rl.learning.train import DqnSettings, train_dqn
from rl.market.market import TrueValue
from rl.market.truth import LOG_FOLDER, interval, is_known, true_values
from rl.ope.estimators import Estimate
from rl.ope.target import choose_temperature, on_log
from rl.ope.valuation import Valuation, Verdict, verdict
from rl.policies import ActionValues, ServedPolicy

Row = dict[str, Any]
SPLITS = ("train", "valid", "test")
UPDATES_PER_CALL, CHECKPOINT_EVERY = 100, 500  # minibatches
SERVED = "dqn"  # the policy that would serve; the tabular one is the baseline
REFERENCE = "reference"
CHECKPOINT = "qnet.pt"


class TrainPolicySettings(JobSettings):
    """How Q is learned, how greedy the served policy may be, and the evidence that a promotion needs."""

    # On the default market a learning rate of 1e-3 with tau 0.01 reaches in 1,500 minibatches the true value that 3e-4 with
    # 0.005 reaches in 3,000, and keeps it at 6,000.
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
    num_learners: int = Field(0, ge=0, description="remote learners of RLlib; 0 learns in the job's own process")
    num_state_cells: int = Field(16, ge=1, description="cells into which the tabular baseline groups states")
    num_candidate_cells: int = Field(64, ge=1, description="cells into which the tabular baseline groups candidates")
    epsilon: float = Field(0.1, ge=0, lt=1, description="share of decisions left to the logging policy")
    min_effective_frac: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="minimum effective sample size of a temperature, as a share of the validation episodes",
    )
    min_effective_episodes: float = Field(
        50, ge=0, description="minimum effective number of test episodes for a promotion"
    )
    num_resamples: int = Field(1000, ge=100, description="bootstrap resamples of the users")
    true_value_sessions: int = Field(3000, ge=100, description="sessions simulated for a true value (market only)")
    seed: int = Field(0, ge=0, description="of network, batches, cells, folds and bootstrap")


def dqn_settings(settings: TrainPolicySettings, *, num_rows: int, use_gpu: bool) -> DqnSettings:
    """DQN's hyperparameters for a log of `num_rows` decisions; a short log gets fewer minibatches."""
    most = max(100, math.ceil(settings.max_epochs * num_rows / settings.batch_size))
    return DqnSettings(
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


def policy_rows(
    policy: str, dataset: str, version: str, valued: Valuation, estimates: dict[str, Estimate]
) -> list[Row]:
    """Rows of gold/policy_values, one for each estimator, without a verdict."""
    return [
        {
            "policy": policy,
            "dataset": dataset,
            "version": version,
            "estimator": name,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "effective_sample_size": estimate.effective_sample_size,
            "num_episodes": estimate.num_episodes,
            "num_rewarded": valued.num_rewarded,
            "verdict": REFERENCE,
            "reason": f"{estimate.effective_sample_size:.0f} effective of {estimate.num_episodes} episodes",
        }
        for name, estimate in estimates.items()
    ]


def true_rows(values: dict[str, TrueValue], version: str) -> list[Row]:
    """Rows of gold/policy_values for values that were simulated in the market."""
    logging = values["logging"].value
    return [
        {
            "policy": policy,
            "dataset": "test",
            "version": version,
            "estimator": "true",
            "value": true.value,
            "low": interval(true)[0],
            "high": interval(true)[1],
            "effective_sample_size": None,
            "num_episodes": true.num_sessions,
            "num_rewarded": None,
            "verdict": REFERENCE,
            "reason": f"{true.num_sessions} simulated sessions; {true.value / logging:.2f} times the logging mixture's",
        }
        for policy, true in values.items()
    ]


def logging_rows(policy: str, own: Valuation, version: str) -> tuple[list[Row], str]:
    """Rows of a logging policy valued on its own decisions, by mean return and by importance sampling, and a line for the log."""
    estimates = own.logging()
    mean, sampled = estimates["mean_return"], estimates["pdis"]
    line = (
        f"logging policy {policy} on its own log: {sampled.value:.6g} ({sampled.low:.6g} to {sampled.high:.6g}), "
        f"mean return {mean.value:.6g}, rewarded {own.num_rewarded} of {len(own.decisions)}"
    )
    return policy_rows("logging", f"all/{policy}", version, own, estimates), line


def learned_rows(
    parts: dict[str, Decisions], served: dict[str, ServedPolicy], settings: TrainPolicySettings, version: str
) -> tuple[list[Row], Verdict]:
    """Rows of every policy on valid and test. The verdict is in the row that decides it, the served policy's DR on test."""
    rows, said = [], Verdict("keep_logging", "not valued")
    for dataset in ("valid", "test"):
        if not len(parts[dataset]):
            continue
        valued_on = valuation(parts[dataset], settings)
        logging = valued_on.logging()["mean_return"]
        rows += policy_rows("logging", dataset, version, valued_on, {"mean_return": logging})
        for name, policy in served.items():
            estimates = valued_on.target(on_log(policy, parts[dataset]), seed=settings.seed)
            found = policy_rows(name, dataset, version, valued_on, estimates)
            if (name, dataset) == (SERVED, "test"):
                said = verdict(estimates["dr"], logging, min_effective_episodes=settings.min_effective_episodes)
                found = [row | said._asdict() if row["estimator"] == "dr" else row for row in found]
            rows += found
    return rows, said


def valuation(decisions: Decisions, settings: TrainPolicySettings) -> Valuation:
    """A valuation with the job's discount and bootstrap."""
    return Valuation.on(decisions, discount=settings.discount, num_resamples=settings.num_resamples, seed=settings.seed)


def served_policy(values: ActionValues, decisions: Decisions, settings: TrainPolicySettings) -> ServedPolicy:
    """The policy that would serve these action values, its temperature chosen on `decisions`."""
    chosen = choose_temperature(
        values, decisions, epsilon=settings.epsilon, min_effective_frac=settings.min_effective_frac
    )
    return ServedPolicy(values, chosen.value, settings.epsilon)


def tabular_q(train: Decisions, settings: TrainPolicySettings) -> TabularQ:
    """The tabular baseline."""
    return fit_tabular(
        train,
        discount=settings.discount,
        num_state_cells=settings.num_state_cells,
        num_candidate_cells=settings.num_candidate_cells,
        seed=settings.seed,
    )


def read_splits(run: Run) -> tuple[Decisions, dict[str, Decisions]]:
    """All logged decisions, and those of each split."""
    rows = run.read_arrow("gold/decisions", columns=[*COLUMNS, "split"])
    rows = rows.sort_by([("episode_id", "ascending"), ("step", "ascending")])
    decisions, split = Decisions.from_arrow(rows), rows["split"].to_numpy()
    return decisions, {name: decisions.take(split == name) for name in SPLITS}


def learn_dqn(run: Run, train: Decisions, settings: TrainPolicySettings) -> qnet.CandidateQNet:
    """Q by DQN; checkpoints lie in the run's folder."""
    dqn = dqn_settings(settings, num_rows=len(train), use_gpu=run.settings.cluster.use_gpu)

    def on_progress(num_updates: int, metrics: dict[str, float]) -> None:
        if num_updates % 500 == 0 or num_updates == dqn.num_updates:
            run.log("learning DQN", updates=f"{num_updates}/{dqn.num_updates}", loss=metrics["loss"])

    return train_dqn(train, dqn, run.files("policy"), on_progress=on_progress)


def start_truth(run: Run, served: dict[str, ServedPolicy], settings: TrainPolicySettings) -> Any | None:
    """Start a Ray task that simulates the true values of the policies; None where the log is not the simulator's."""
    folder = run.lake.folder / LOG_FOLDER
    if run.mapping.name != "market" or not is_known(folder):
        return None
    weights = RewardWeights(**json.loads(run.property_of("gold/decisions", REWARD_WEIGHTS)))
    simulate: Any = true_values  # Ray's types do not allow keyword arguments
    return ray.remote(simulate).remote(
        folder,
        served,
        test_from=run.times.test_from,
        rewards=weights,
        discount=settings.discount,
        num_sessions=settings.true_value_sessions,
    )


def keep(run: Run, network: qnet.CandidateQNet, temperature: float, settings: TrainPolicySettings) -> None:
    """Write the settings and the network, with what serving it needs, into the run's folder."""
    folder = run.files("policy")
    (folder / "settings.json").write_text(json.dumps(settings.model_dump(mode="json"), indent=2))
    qnet.save(network, folder / CHECKPOINT, temperature=temperature, epsilon=settings.epsilon)


def publish(run: Run, network: qnet.CandidateQNet, said: Verdict, rows: list[Row]) -> None:
    """Register the model, promoted or as a candidate, and commit the values."""
    folder = run.files("policy")
    run.register_model(
        "policy",
        folder,
        checkpoint=folder / CHECKPOINT,
        num_parameters=sum(p.numel() for p in network.parameters()),
        status="promoted" if said.verdict == "promote" else "candidate",
    )
    run.commit_arrow("gold/policy_values", pa.Table.from_pylist(rows, schema=contract("gold/policy_values").schema))


def main(settings: TrainPolicySettings) -> None:
    with start_run("train_policy", settings) as run:
        torch.set_num_threads(1)  # one thread, so that jobs on a small machine do not slow each other down
        decisions, parts = read_splits(run)
        train, valid, test = (parts[name] for name in SPLITS)
        run.log("decisions", train=len(train), valid=len(valid), test=len(test), episodes=decisions.num_episodes)
        if not train.is_transition.any() or not len(test):
            run.skip(
                "no logged decision before valid_from to learn from, or none after test_from to evaluate a policy on"
            )
        if not len(valid):
            run.log("no validation episode: the temperatures are chosen on train")
        with ray_session(settings.cluster):
            tabular = tabular_q(train, settings)
            run.log("learned tabular Q", decisions=len(train), cells=tabular.table.size)
            network = learn_dqn(run, train, settings)
            learned: dict[str, ActionValues] = {"tabular": tabular, SERVED: network}
            served = {name: served_policy(q, valid if len(valid) else train, settings) for name, q in learned.items()}
            truth = start_truth(run, served, settings)
            rows, said = learned_rows(parts, served, settings, run.run_id)
            run.log(f"verdict {said.verdict}: {said.reason}")
            for policy in sorted(set(decisions.policies)):
                own = valuation(decisions.take(decisions.policies == policy), settings)
                own_rows, line = logging_rows(policy, own, run.run_id)
                run.log(line)
                rows += own_rows
            rows += true_rows(ray.get(truth), run.run_id) if truth else []
        keep(run, network, served[SERVED].temperature, settings)
        publish(run, network, said, rows)


if __name__ == "__main__":
    main(TrainPolicySettings.from_command_line())
