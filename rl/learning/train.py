"""DQN from logs: RLlib's learner, fed with flat batches of logged transitions.

In this order: the module (the network that is learned), the learner (how the target network moves), the loop (updates and
checkpoints) and the batches. The loss, double Q-learning (van Hasselt et al. 2016) and the optimiser are RLlib's; the network is
that of `rl/learning/qnet.py`, which serves without Ray.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network, update_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.tune import register_env

from rl.dataset.decisions import Decisions, Ints
from rl.dataset.env import LoggedDataEnv
from rl.learning.qnet import CandidateQNet

Batch = dict[str, Any]
PROGRESS_FOLDER = "checkpoint"


@dataclass(frozen=True)
class DqnOptions:
    """The options of a training."""

    discount: float
    hidden: tuple[int, ...]  # widths of the layers that score a candidate
    learning_rate: float  # of Adam
    tau: float  # the target network moves this far towards the online weights after every minibatch
    batch_size: int  # transitions in a minibatch, over all learners
    num_updates: int  # minibatches in all
    updates_per_call: int  # minibatches handed to the learner at once
    checkpoint_every: int  # updates
    num_learners: int  # remote learners; 0 learns in this process
    use_gpu: bool  # one GPU for each learner
    seed: int


class CandidateQModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, QNetAPI):
    """`CandidateQNet` as an RLlib module; its observations are those of `LoggedDataEnv`."""

    def setup(self) -> None:
        space: Any = self.observation_space
        config: Any = self.model_config
        candidate_dim = space["candidates"].shape[1]
        self.network = CandidateQNet(space["state"].shape[0], candidate_dim, tuple(config["hidden"]))
        for name, values in config["scaling"].items():
            getattr(self.network, name).copy_(torch.as_tensor(values))

    def get_non_inference_attributes(self) -> list[str]:
        return ["target_network"]

    def make_target_networks(self) -> None:
        self.target_network = make_target_network(self.network)

    def get_target_network_pairs(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        return [(self.network, self.target_network)]

    def compute_q_values(self, batch: Batch) -> Batch:
        return {QF_PREDS: _score(self.network, batch[Columns.OBS])}

    def forward_target(self, batch: Batch) -> Batch:
        return {QF_PREDS: _score(self.target_network, batch[Columns.OBS])}

    def _forward_inference(self, batch: Batch, **kwargs: Any) -> Batch:
        return {Columns.ACTIONS: self.compute_q_values(batch)[QF_PREDS].argmax(dim=-1)}

    def _forward_exploration(self, batch: Batch, **kwargs: Any) -> Batch:
        """Take the logged action, the only one whose outcome is known."""
        return {Columns.ACTIONS: batch[Columns.OBS]["logged_action"]}

    def _forward_train(self, batch: Batch, **kwargs: Any) -> Batch:
        """Q of the decision, of the next one, and the target network's Q of the next one."""
        with torch.no_grad():
            after = _score(self.network, batch[Columns.NEXT_OBS])
            target = _score(self.target_network, batch[Columns.NEXT_OBS])
        return {QF_PREDS: _score(self.network, batch[Columns.OBS]), QF_NEXT_PREDS: after, QF_TARGET_NEXT_PREDS: target}


def _score(network: Any, observation: Batch) -> torch.Tensor:
    scores: torch.Tensor = network(observation["state"], observation["candidates"], observation["mask"])
    return scores


class SoftTargetLearner(DQNTorchLearner):
    """RLlib's DQN learner, with a target network that moves a little after every minibatch rather than once per call.

    With hard copies every 2,000 steps, the policy learned from logged data improves at first and then falls below random.
    """

    def _update(self, batch: Batch, **kwargs: Any) -> Any:
        result = super()._update(batch, **kwargs)
        modules: Any = self.module
        config: Any = self.config
        for module_id in modules.keys():  # noqa: SIM118 - a MultiRLModule is not a dict
            for main_net, target_net in modules[module_id].unwrapped().get_target_network_pairs():
                update_target_network(main_net=main_net, target_net=target_net, tau=config.tau)
        return result


def train_dqn(
    decisions: Decisions,
    options: DqnOptions,
    folder: Path,
    *,
    on_progress: Callable[[int, dict[str, float]], None] = lambda num_updates, metrics: None,
) -> CandidateQNet:
    """Learn Q from logged decisions and return the network. Where Ray is not running, RLlib starts it.

    Each learner gets an equal share of every minibatch, and the gradients are averaged: updates, samples and moves of the
    target network are the same whatever the number of learners, and so is the network but for rounding.

    Checkpoints lie below `folder`; a second call with the same folder resumes from the last one and draws the same batches
    as an uninterrupted run. `on_progress` gets the number of updates done and the loss.

    Raises:
        ValueError: there is no logged transition, or a minibatch cannot be shared equally.
    """
    num_shares = max(options.num_learners, 1)
    if options.batch_size % num_shares:
        raise ValueError(
            f"a batch_size of {options.batch_size} cannot be shared equally by num_learners = {num_shares}; "
            "choose a multiple of it"
        )
    rows = np.flatnonzero(decisions.is_transition)
    if len(rows) == 0:
        raise ValueError("DQN needs logged transitions, and there are none")
    checkpoint = folder / PROGRESS_FOLDER
    algorithm = build_algorithm(decisions, options)
    try:
        done = _restore(algorithm, checkpoint)
        while done < options.num_updates:
            num_updates = min(options.updates_per_call, options.num_updates - done)
            rng = np.random.default_rng([options.seed, done])
            drawn = rng.choice(rows, size=num_updates * options.batch_size)
            # RLlib gives each learner a contiguous part of what it is handed, and takes its minibatches from the front.
            shares = drawn.reshape(num_updates, num_shares, -1).swapaxes(0, 1).ravel()
            results = algorithm.learner_group.update(
                batch=transitions(decisions, shares),
                minibatch_size=options.batch_size // num_shares,
                num_epochs=1,
            )
            done += num_updates
            on_progress(done, {"loss": float(results[0][DEFAULT_MODULE_ID]["qf_loss"].peek())})
            if done % options.checkpoint_every < num_updates or done == options.num_updates:
                _save(algorithm, checkpoint, done)
        return _learned_network(algorithm, decisions, options)
    finally:
        algorithm.stop()


def build_algorithm(decisions: Decisions, options: DqnOptions) -> Any:
    """RLlib's DQN on `LoggedDataEnv`, without env runners, because the learners get their batches from the log."""
    network = CandidateQNet(decisions.states.shape[1], decisions.candidates.shape[2], options.hidden)
    network.fit_scaling(decisions.states, decisions.candidates, decisions.mask)
    scaling = {name: buffer.numpy() for name, buffer in network.named_buffers()}
    first_episode = decisions.take(decisions.episodes == 0)
    register_env("logged_decisions", lambda _: LoggedDataEnv(first_episode))
    new_config: Callable[[], Any] = DQNConfig
    config = (
        new_config()
        .environment("logged_decisions")
        .env_runners(num_env_runners=0)
        .learners(
            learner_class=SoftTargetLearner,
            num_learners=options.num_learners,
            num_gpus_per_learner=int(options.use_gpu),
        )
        .training(
            gamma=options.discount,
            lr=options.learning_rate,
            tau=options.tau,
            double_q=True,
            dueling=False,
            n_step=1,
            num_atoms=1,
            train_batch_size_per_learner=options.batch_size,
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=CandidateQModule, model_config={"hidden": options.hidden, "scaling": scaling}
            )
        )
        .debugging(seed=options.seed, log_level="ERROR")
    )
    return config.build_algo()


def transitions(decisions: Decisions, rows: Ints) -> MultiAgentBatch:
    """The transitions of `rows` [b], in the columns that DQN's loss reads."""
    after = decisions.next_rows[rows]
    new_batch: Callable[[dict[str, Any]], SampleBatch] = SampleBatch
    batch = new_batch(
        {
            Columns.OBS: _observations(decisions, rows),
            # Where the episode ends, the next observation is not used; the row itself fills the place.
            Columns.NEXT_OBS: _observations(decisions, np.where(after >= 0, after, rows)),
            Columns.ACTIONS: decisions.actions[rows],
            Columns.REWARDS: decisions.rewards[rows].astype(np.float32),
            Columns.TERMINATEDS: after < 0,
            "weights": np.ones(len(rows), dtype=np.float32),
            "n_step": np.ones(len(rows), dtype=np.float32),
        }
    )
    return MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=len(rows))


def _observations(decisions: Decisions, rows: Ints) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "state": decisions.states[rows],
        "candidates": decisions.candidates[rows],
        "mask": decisions.mask[rows].astype(np.float32),
        "logged_action": decisions.actions[rows],
    }


def _learned_network(algorithm: Any, decisions: Decisions, options: DqnOptions) -> CandidateQNet:
    network = CandidateQNet(decisions.states.shape[1], decisions.candidates.shape[2], options.hidden)
    weights = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    own = {name.removeprefix("network."): value for name, value in weights.items() if name.startswith("network.")}
    network.load_state_dict({name: torch.as_tensor(value) for name, value in own.items()})
    return network.eval()


def _save(algorithm: Any, checkpoint: Path, num_updates: int) -> None:
    """Write a checkpoint, then delete the earlier ones, so that a kill leaves a complete one; its number is written last."""
    written = checkpoint.with_name(f"{checkpoint.name}-{num_updates}")
    shutil.rmtree(written, ignore_errors=True)
    algorithm.save_to_path(written.absolute())
    (written / "num_updates").write_text(str(num_updates))
    for older in checkpoint.parent.glob(f"{checkpoint.name}-*"):
        if older != written:
            shutil.rmtree(older)


def _restore(algorithm: Any, checkpoint: Path) -> int:
    """Restore the newest complete checkpoint; returns its number of updates, 0 without one."""
    whole = {int(path.read_text()): path.parent for path in checkpoint.parent.glob(f"{checkpoint.name}-*/num_updates")}
    if not whole:
        return 0
    algorithm.restore_from_path(whole[max(whole)].absolute())
    return max(whole)
