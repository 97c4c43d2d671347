"""A ranker: what orders the candidates, of whichever kind; how it is stored, and what in a candidate moved its score.

Three kinds stand beside each other, and validation chooses (jobs/ray/train_ranker.py, docs/decisions/0032): LambdaMART
(lib/candidates/trees.py), a network with a loss over a user's list, and the neural ranker, which has vectors of users and items
of its own (lib/candidates/networks.py). Does not need torch.
"""

import warnings
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.candidates import networks
from lib.candidates.examples import Floats, Pairs
from lib.candidates.features import FEATURES, GROUP_OF, GROUPS, IS_COUNT, PAIR_FEATURES, TASTE
from lib.candidates.networks import Network
from lib.candidates.trees import Trees
from lib.statistics.bootstrap import Floats as Doubles

Kind = Literal["trees", "listwise", "neural"]
TREES: Kind = "trees"
LISTWISE: Kind = "listwise"
NEURAL: Kind = "neural"


class Scorer(Protocol):
    """A fit of a ranker."""

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


class Ranker(NamedTuple):
    """A fit of the ranker, as tasks get it."""

    version: str
    scorer: Scorer
    usual: Floats  # an ordinary candidate, see `ordinary`


def save(scorer: Scorer, folder: Path, name: str) -> Path:
    """Write a fit; returns its file."""
    if isinstance(scorer, Network):
        return networks.save(scorer, folder / f"{name}.safetensors")
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
    file = folder / f"{name}.safetensors"
    return networks.load(file) if file.is_file() else Trees((folder / f"{name}.txt").read_text())


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
    groups = np.array([GROUP_OF[name] for name in FEATURES])
    falls = np.empty((len(GROUPS), len(features)))
    for place, group in enumerate(GROUPS):
        without = features.copy()
        without[:, groups == group] = usual[groups == group]
        who = pairs.unknown() if pairs is not None and group == TASTE else pairs
        falls[place] = scores - scorer.scores(without, who)
        if who is pairs:  # what is as of an ordinary candidate cannot have moved a row, even where all else lowers it
            falls[place, ((features == without) | np.isnan(features) & np.isnan(without)).all(axis=1)] = -np.inf
    return np.asarray(falls.argmax(axis=0))
