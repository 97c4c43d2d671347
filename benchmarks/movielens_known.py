"""What the peers know of MovieLens, the lists that scores give, and NDCG@10 on the validation window; runs in their environment and in ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from lib.ranking.metrics import ndcg

K = 10
SEED = 0
Scores = NDArray[np.float32]  # (users, items)
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """Ratings, in the order of their times: places of user and item, the moment, and whether the user liked the movie."""

    users: list[str]
    items: list[str]
    rows: pl.DataFrame  # user, item, at, liked

    @classmethod
    def of(cls, ratings: pl.DataFrame) -> "Known":
        """From rows of known.parquet."""
        users, items = (ratings[name].unique().sort().to_list() for name in ("user", "item"))
        places = {
            name: pl.col(name).replace_strict(known, range(len(known)), return_dtype=pl.Int64)
            for name, known in (("user", users), ("item", items))
        }
        return cls(users, items, ratings.with_columns(**places).sort("at", "user", "item"))

    def chosen(self, learns: str) -> pl.DataFrame:
        """The rows that a peer learns from: `liked` ones, or `all`."""
        return self.rows.filter(pl.col("liked")) if learns == "liked" else self.rows

    def matrix(self, learns: str) -> sp.csr_matrix:
        """(users, items) of ones."""
        return self._ones(self.chosen(learns))

    def seen(self) -> NDArray[np.bool_]:
        """(users, items): which movies a user rated, whatever the rating."""
        return self._ones(self.rows).toarray() > 0

    def _ones(self, rows: pl.DataFrame) -> sp.csr_matrix:
        shape = (len(self.users), len(self.items))
        ones = np.ones(len(rows), np.float32)
        return sp.csr_matrix((ones, (rows["user"].to_numpy(), rows["item"].to_numpy())), shape=shape)


def top(scores: Scores, seen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(users, K): the places of each user's best items that were not seen, ties by place; those without a score last."""
    hidden = np.where(seen, -np.inf, np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf))
    return np.argsort(-hidden, axis=1, kind="stable")[:, :K]


def ndcg_on(valid: pl.DataFrame, known: Known, scores: Scores, seen: NDArray[np.bool_]) -> float:
    """Mean NDCG@10 of known users who liked something in the validation window that they had not rated before."""
    liked = valid.filter(pl.col("liked") & pl.col("user").is_in(known.users)).select("user", "item").unique()
    place = {name: number for number, name in enumerate(known.items)}
    wanted = liked.group_by("user", maintain_order=False).agg("item").sort("user")
    users = [known.users.index(user) for user in wanted["user"]]
    found = top(scores[users], seen[users])
    hits = np.zeros(found.shape, bool)
    for row, items in enumerate(wanted["item"]):
        hits[row] = np.isin(found[row], [place[item] for item in items if item in place])
    return float(ndcg(hits, wanted["item"].list.len().to_numpy().astype(np.int64)).mean())
