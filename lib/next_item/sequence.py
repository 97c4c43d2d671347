"""What a sequence model (lib/models/sequence.py), fitted before by train_sequence, says of what comes next in a visit."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lib.models.sequence_weights import NEXT, PAD, SequenceWeights
from lib.next_item.visits import NOTHING, Catalogue, Ints, Prefixes
from lib.ranking.topk import best_of_each

# Scores are rounded, so that ties and lists do not depend on how many prefixes are asked for at once: products of matrices of other
# sizes differ in their last digits.
DECIMALS = 3


@dataclass(frozen=True)
class SequenceStrategy:
    """The model's weights, and its items among the learnt ones."""

    weights: SequenceWeights
    number_of: Ints  # [learnt items] the model's number of each, PAD for one that it does not know
    known: Ints  # [items of both] their index among the learnt items

    @classmethod
    def of(cls, weights: SequenceWeights, catalogue: Catalogue) -> "SequenceStrategy":
        """The model over the learnt items; it names no others, and does not hear of them."""
        numbers = {item: number for number, item in enumerate(weights.item_ids, start=1)}
        number_of = np.array([numbers.get(item, PAD) for item in catalogue.items.to_list()], dtype=np.int64)
        return cls(weights, number_of, np.flatnonzero(number_of != PAD))

    def scores(self, prefixes: Prefixes, depth: int) -> sparse.csr_array:
        """[prefixes, learnt items] the softmax of its scores, the `depth` largest of each; none where it knows no item of the prefix."""
        shape = (len(prefixes), len(self.number_of))
        number = np.append(self.number_of, PAD)[np.minimum(prefixes.recent, len(self.number_of))]
        number[prefixes.recent == NOTHING] = PAD
        rows = np.flatnonzero((number != PAD).any(axis=1))
        if not len(rows) or not len(self.known):
            return sparse.csr_array(shape)
        sequences = [of_row[of_row != PAD] for of_row in number[rows, ::-1]]
        vectors = self.weights.vectors(sequences, purpose=NEXT)
        scores = np.round(vectors @ self.weights.item_vectors[self.number_of[self.known] - 1].T, DECIMALS)
        best = best_of_each(scores, depth)
        likely = np.exp(scores - scores.max(axis=1, keepdims=True)).astype(np.float64)
        values = likely[best.user, best.item] / likely.sum(axis=1)[best.user]
        found = sparse.csr_array((values, (rows[best.user], self.known[best.item])), shape=shape)
        found.sort_indices()
        return found
