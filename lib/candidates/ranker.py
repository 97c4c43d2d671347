"""A ranker: what orders the candidates, of whichever kind; how it is stored, and what in a candidate moved its score.

Several kinds stand beside each other, and validation chooses (jobs/ray/train_ranker.py, docs/decisions/0032): LambdaMART
(lib/candidates/trees.py), a network with a loss over a user's list, the neural ranker, which has vectors of users and items
of its own (lib/candidates/networks.py), and the mean of several. Does not need torch.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.candidates import networks
from lib.candidates.examples import Examples, Floats, Pairs
from lib.candidates.features import FEATURES, GROUP_OF, GROUPS, IS_COUNT, PAIR_FEATURES, TASTE
from lib.candidates.networks import Network
from lib.candidates.trees import Trees
from lib.statistics.bootstrap import Floats as Doubles

Kind = Literal["trees", "listwise", "neural", "blend"]
TREES: Kind = "trees"
LISTWISE: Kind = "listwise"
NEURAL: Kind = "neural"
BLEND: Kind = "blend"


class Scorer(Protocol):
    """A fit of a ranker."""

    @property
    def knows_pairs(self) -> bool:
        """Whether who and what candidates are bears on their scores."""
        ...

    def scores(self, features: Floats, pairs: Pairs | None = None) -> Doubles:
        """The scores of candidates, (N,): the higher, the earlier in a list.

        Args:
            features: (N, len(FEATURES)).
            pairs: who and what they are; without it, nobody and nothing that a ranker's own vectors know.
        """
        ...

    @property
    def num_parameters(self) -> int:
        """Numbers that were fitted."""
        ...


@dataclass(frozen=True)
class Blend:
    """The mean of several fits' scores, each over its deviation within a list."""

    scorers: Sequence[Scorer]
    deviations: Sequence[float]

    @property
    def knows_pairs(self) -> bool:
        """Whether one of the fits does."""
        return any(scorer.knows_pairs for scorer in self.scorers)

    def scores(self, features: Floats, pairs: Pairs | None = None) -> Doubles:
        """The scores, (N,)."""
        over_deviation = [
            scorer.scores(features, pairs) / deviation
            for scorer, deviation in zip(self.scorers, self.deviations, strict=True)
        ]
        return np.asarray(np.mean(over_deviation, axis=0))

    @property
    def num_parameters(self) -> int:
        """Those of all fits."""
        return sum(scorer.num_parameters for scorer in self.scorers)


class Ranker(NamedTuple):
    """A fit of the ranker, as tasks get it."""

    version: str
    scorer: Scorer
    usual: Floats  # an ordinary candidate, see `ordinary`


def save(scorer: Scorer, folder: Path, name: str) -> Path:
    """Write a fit; returns its file, that of a blend with the names of the others' beside it."""
    if isinstance(scorer, Network):
        return networks.save(scorer, folder / f"{name}.safetensors")
    if isinstance(scorer, Blend):
        file = folder / f"{name}.blend.json"
        parts = [save(part, folder, f"{name}-{number}").stem for number, part in enumerate(scorer.scorers)]
        file.write_text(json.dumps({"fits": parts, "deviations": list(scorer.deviations)}))
        return file
    assert isinstance(scorer, Trees)
    file = folder / f"{name}.txt"
    file.write_text(scorer.text)
    return file


def load(folder: Path, name: str) -> Scorer:
    """What `save` wrote.

    Raises:
        OSError: there is none.
        ValueError: it is not whole.
    """
    blend = folder / f"{name}.blend.json"
    if blend.is_file():
        known = json.loads(blend.read_text())
        return Blend([load(folder, part) for part in known["fits"]], known["deviations"])
    file = folder / f"{name}.safetensors"
    return networks.load(file) if file.is_file() else Trees((folder / f"{name}.txt").read_text())


def square_sums(scores: Doubles, examples: Examples) -> Doubles:
    """(2,): the squares of how far scores lie from the mean of their list, summed, and their number; workers' add up."""
    sizes = np.maximum(examples.sizes, 1)
    mean = np.bincount(examples.group, scores, minlength=len(sizes)) / sizes
    return np.array([np.sum((scores - mean[examples.group]) ** 2), len(scores)])


def ordinary(features: Floats) -> Floats:
    """An ordinary candidate, (len(FEATURES),): the median of each feature, and nothing that the user did with the item."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature that is unknown everywhere stays so
        median = np.nanmedian(features, axis=0).astype(np.float32)
    median[: len(PAIR_FEATURES)] = np.where(IS_COUNT, 0, np.nan)
    return np.asarray(median)


def moving_groups(
    scorer: Scorer, features: Floats, scores: Doubles, usual: Floats, pairs: Pairs | None = None
) -> NDArray[np.int64]:
    """Which group of features moved each row: the one that lifts its score most above that of an ordinary candidate's features.

    A ranker's own vectors of users and items count with those of the other models, as taste.

    Args:
        scorer: the ranker.
        features: (N, len(FEATURES)).
        scores: (N,), the ranker's.
        usual: what `ordinary` gives; each group's features are replaced by these in turn.
        pairs: who and what they are.

    Returns:
        (N,), indices of GROUPS.
    """
    is_of = np.array([[GROUP_OF[name] == group for name in FEATURES] for group in GROUPS])
    without = np.where(is_of[:, None], usual, features)  # (G, N, F), a group's features replaced in each
    falls = scores - _scores_without(scorer, without, pairs if scorer.knows_pairs else None)
    is_ordinary = ((features == without) | np.isnan(features) & np.isnan(without)).all(axis=2)
    if pairs is not None:
        is_ordinary[GROUPS.index(TASTE)] = False
    falls[
        is_ordinary
    ] = -np.inf  # what is as of an ordinary candidate cannot have moved a row, even where all else lowers it
    return np.asarray(falls.argmax(axis=0))


def _scores_without(scorer: Scorer, without: Floats, pairs: Pairs | None) -> Doubles:
    """(G, N): the scores of candidates with each group's features replaced in turn, in as few calls as can be."""
    num_groups, num_rows, num_features = without.shape
    if pairs is None:
        return scorer.scores(without.reshape(-1, num_features)).reshape(num_groups, num_rows)
    taste, found = GROUPS.index(TASTE), np.empty((num_groups, num_rows))
    others = np.delete(np.arange(num_groups), taste)
    again = pairs.where(np.tile(np.arange(num_rows), len(others)))
    found[others] = scorer.scores(without[others].reshape(-1, num_features), again).reshape(len(others), num_rows)
    found[taste] = scorer.scores(without[taste], pairs.unknown())
    return found
