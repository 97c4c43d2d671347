"""A release of any size with random content: for speed alone, which does not depend on what the numbers mean."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch

from lib.candidates.catalogue import catalogue_of
from lib.candidates.examples import Examples
from lib.candidates.features import FEATURES
from lib.candidates.lists import Wording
from lib.candidates.ranker import Ranker, ordinary
from lib.candidates.sources import Retrieval
from lib.candidates.trees import Trees, fitted, text_of
from lib.next_item.model import NextItemModel
from lib.ranking import ann
from lib.serving.release import Facts, Release
from lib.serving.users import UserEvents, Users, numbers_of
from rl.learning.qnet import CandidateQNet
from rl.learning.qnet_weights import QWeights
from rl.observation import CANDIDATE_FEATURES, COUNTED, STATE_FEATURES
from rl.observation import Catalogue as PolicyCatalogue
from rl.serving import LivePolicy, Past, PastEvents, ShopNow

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHTS = {"view": 0.2, "cart": 0.6, "favourite": 0.6, "purchase": 1.0, "rating": 0.2}
ANN_FROM, NUM_PROBES, NUM_PROPOSED = 50_000, 128, 40  # as the jobs' defaults
WIDTH, NEIGHBOURS, EVENTS, SHOWN, CATEGORIES = 64, 20, 50, 100, 200


def synthetic_release(
    num_items: int,
    *,
    num_users: int = 10_000,
    num_trees: int = 200,
    num_visits: int = 5_000,
    seed: int = 0,
    version: str = "synthetic",
    user_keys: Sequence[str] = (),
) -> Release:
    """A release of so many items and users, or of users with these keys, each with EVENTS events."""
    draw = np.random.default_rng(seed)
    popularity = draw.zipf(1.3, num_items).clip(max=100_000)
    retrieval = _retrieval(draw, num_items, popularity)
    keys = draw.integers(0, 2**63, (num_users, 2), dtype=np.uint64)
    if user_keys:
        keys = np.array([numbers_of(key) for key in user_keys], np.uint64)
    users = _users(draw, np.unique(keys, axis=0), num_items, popularity)
    share = popularity / popularity.sum()
    ids = retrieval.catalogue.item_ids.to_pylist()
    visits = [[ids[item] for item in draw.choice(num_items, 6, p=share)] for _ in range(num_visits)]
    facts = Facts(
        version,
        AS_OF,
        {"ranker": "synthetic"},
        Wording("bought", 3),
        WEIGHTS,
        "purchase",
        30.0,
        NUM_PROPOSED,
        None,
        NUM_PROBES if retrieval.indexes is not None else None,
    )
    prices = np.exp(retrieval.catalogue.log_price.astype(np.float64))
    return Release(facts, retrieval, prices, users, _ranker(draw, num_trees), NextItemModel.fit(visits, chosen="blend"))


def _retrieval(draw: np.random.Generator, num_items: int, popularity: np.ndarray) -> Retrieval:
    buyers = popularity
    ids = [f"i{number:08d}" for number in range(num_items)]
    sums = pl.DataFrame(
        {
            "item_id": ids,
            "num_users": buyers + 1,
            "num_buyers": buyers,
            "num_recent_buyers": buyers // 4,
            **{f"bought_{days}": buyers * factor for days, factor in ((14, 0.1), (60, 0.4), (180, 0.8))},
            "weight_14": buyers * 0.2,
            "age_days": draw.uniform(1, 400, num_items),
            "silence_days": draw.uniform(0, 30, num_items),
        }
    )
    category = draw.integers(0, CATEGORIES, num_items)
    items = pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"Item {number}" for number in range(num_items)],
            "category": [[f"c{number % 20}", f"c{number}"] for number in category],
            "price": draw.lognormal(3, 1, num_items),
        }
    )
    catalogue = catalogue_of(sums, items.to_arrow())
    vectors = {model: draw.standard_normal((num_items, WIDTH), np.float32) for model in ("als", "two_tower", "content")}
    indexes = None
    if num_items >= ANN_FROM:
        indexes = {model: ann.built(found, num_probes=NUM_PROBES) for model, found in vectors.items()}
    return Retrieval(AS_OF, catalogue, _ease(draw, num_items), vectors, NUM_PROPOSED, indexes=indexes)


def _ease(draw: np.random.Generator, num_items: int) -> np.ndarray | sp.csr_array:
    if num_items <= 10_000:
        return draw.standard_normal((num_items, num_items), np.float32) * np.float32(0.01)
    columns = draw.integers(0, num_items, num_items * NEIGHBOURS)
    values = draw.random(num_items * NEIGHBOURS, np.float32)
    rows = np.repeat(np.arange(num_items), NEIGHBOURS)
    return sp.csr_array((values, (rows, columns)), shape=(num_items, num_items))


def _users(draw: np.random.Generator, keys: np.ndarray, num_items: int, popularity: np.ndarray) -> Users:
    num_events = len(keys) * EVENTS
    end = int(AS_OF.timestamp()) * 10**6
    bought = (draw.random(num_events) < 0.2).astype(np.int64)
    events = UserEvents(
        draw.choice(num_items, num_events, p=popularity / popularity.sum()).astype(np.int32),
        np.sort(end - draw.integers(1, 200 * 86_400 * 10**6, (len(keys), EVENTS)), axis=1).ravel(),
        0.2 + 0.8 * bought,
        bought,
    )
    vectors = {model: draw.standard_normal((len(keys), WIDTH), np.float32) for model in ("als", "two_tower")}
    return Users(keys, np.arange(len(keys) + 1) * EVENTS, events, vectors)


def _ranker(draw: np.random.Generator, num_trees: int) -> Ranker:
    groups, size = 200, 100
    features = draw.standard_normal((groups * size, len(FEATURES)), np.float32)
    label = (features[:, 0] + draw.standard_normal(groups * size) > 2).astype(np.int8)
    wanted = np.full((groups, 2), 1)
    examples = Examples(features, label, label > 0, np.repeat(np.arange(groups), size), wanted)
    options = {"num_leaves": 31, "learning_rate": 0.1, "min_data_in_leaf": 20, "seed": 0}
    booster = fitted(examples, num_trees=num_trees, options=options)
    return Ranker("synthetic", Trees(text_of(booster)), ordinary(features))


def with_policy(release: Release, *, seed: int = 0) -> Release:
    """The release with a policy, whose network learned nothing; each user was shown SHOWN items beside what they did."""
    draw, num_items, num_users = np.random.default_rng(seed), len(release.catalogue), len(release.users)
    torch.manual_seed(seed)
    network = CandidateQNet(len(STATE_FEATURES), len(CANDIDATE_FEATURES), (64, 64))
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    own, size = release.users.events, num_users * (EVENTS + SHOWN)
    shown = np.sort(draw.choice(own.time, (num_users, EVENTS + SHOWN)), axis=1).ravel()
    events = PastEvents(
        draw.integers(0, num_items, size).astype(np.int32),
        shown,
        draw.choice(np.array([0, 0, 0, 1, 2, 3], np.int8), size),
        np.tile(np.arange(EVENTS + SHOWN, dtype=np.int32), num_users),
    )
    past = Past(release.users.keys, np.arange(num_users + 1) * (EVENTS + SHOWN), events)
    codes = [np.append(draw.integers(0, number, num_items), number) for number in (CATEGORIES, 20, 500)]
    catalogue = PolicyCatalogue(*codes, draw.random(num_items + 1))
    counts = draw.integers(0, 100, (num_items + 1, len(COUNTED))).astype(np.float64)
    shop = ShopNow(catalogue, counts, counts.mean(axis=0))
    gap = timedelta(minutes=release.facts.visit_gap_minutes)
    policy = LivePolicy("synthetic", QWeights(weights, {}), shop, past, gap, release.catalogue)
    return replace(release, policy=policy)


def user_key(users: Users, place: int) -> str:
    """The key of the user at a place."""
    first, second = (int(part) for part in users.keys[place])
    return f"{first:016x}{second:016x}"
