"""Candidates' features and scores as they were when a release was made: what later ones are compared with, to tell drift."""

import numpy as np
import polars as pl

from lib.candidates.features import FEATURES, features_of
from lib.candidates.sources import candidates_of
from lib.ranking.topk import best_order, ranks_of
from lib.serving.histories import past_of
from lib.serving.release import Release


def reference_of(release: Release, *, num_rows: int, seed: int) -> pl.DataFrame:
    """Rows with FEATURES, `score` and `rank` among a user's candidates, of users who are drawn; `score` is null without a ranker."""
    order = np.random.default_rng(seed).permutation(len(release.users))
    frames, found = [_empty()], 0
    for place in order.tolist():
        history = past_of(release, place)
        if history is None or not len(history.pairs):
            continue
        candidates = candidates_of(release.retrieval, history)
        features = features_of(candidates, history, release.catalogue)
        rows = pl.DataFrame(features, schema=list(FEATURES), orient="row")
        frames.append(rows.with_columns(**_scores(release, features, candidates.user)))
        found += len(rows)
        if found >= num_rows:
            break
    return pl.concat(frames).head(num_rows)


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(FEATURES, pl.Float32) | {"score": pl.Float64, "rank": pl.Int32})


def _scores(release: Release, features: np.ndarray, user: np.ndarray) -> dict[str, pl.Series | pl.Expr]:
    if release.ranker is None:
        return {"score": pl.lit(None, pl.Float64), "rank": pl.lit(None, pl.Int32)}
    scores = release.ranker.scorer.scores(features)
    ranks = np.empty(len(scores), np.int32)
    best = best_order(user, scores)
    ranks[best] = ranks_of(user[best])
    return {"score": pl.Series(scores), "rank": pl.Series(ranks)}
