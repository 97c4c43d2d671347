"""A release: all that a server answers from, of one moment, in a folder that never changes (docs/decisions/0037).

release.json        the format, the moment, what each part is a version of, and the SHA-256 of every file
catalogue.arrow     the items, in the order of their positions: what is known of each, title, category, price
ease*.npy           EASE's weights, dense or as a sparse matrix
vectors/MODEL.npy   vectors of the items by each model
users/*.npy         what users did, and their vectors (lib/serving/users.py)
ranker/             the ranker's fit, where there is one (lib/candidates/ranker.py)
next/               what comes next in a visit, where it was learnt (lib/next_item/files.py)
policy/             the promoted policy, where there is one (rl/serving.py)
creatives.json      adverts that may be shown
reference.parquet   candidates' features and scores when the release was made, by which drift is told
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import scipy.sparse as sp

from lib.candidates import ranker as rankers
from lib.candidates.catalogue import Catalogue
from lib.candidates.features import FEATURES
from lib.candidates.known import ITEM_SUMS
from lib.candidates.lists import Wording
from lib.candidates.ranker import Ranker
from lib.candidates.sources import Retrieval
from lib.next_item import files as next_files
from lib.next_item.model import NextItemModel
from lib.ranking import ann
from lib.ranking.ease import Weights
from lib.serving import users as user_files
from lib.serving.policy import Policy
from lib.serving.users import Users
from lib.tables.silver import LEVELS

FORMAT = 1
KIND = "releases"  # of files in the lake
MANIFEST, CATALOGUE, CREATIVES, REFERENCE = "release.json", "catalogue.arrow", "creatives.json", "reference.parquet"
EASE, EASE_PARTS, VECTORS, RANKER, NEXT = "ease.npy", ("data", "indices", "indptr"), "vectors", "ranker", "next"
POLICY = "policy"
RANKER_FIT = "ranker"


@dataclass(frozen=True)
class Facts:
    """What a release says of itself."""

    version: str  # the run that made it
    as_of: datetime
    versions: Mapping[str, str]  # model -> version of each part
    wording: Wording
    event_weights: Mapping[str, float]  # what an event of each type weighs in interactions
    relevant: str  # the type of events that recommendations should lead to
    visit_gap_minutes: float  # of silence that end a visit
    num_proposed: int  # items by each retriever
    max_per_category: int | None  # of a ranked list, while others are left
    ann_probes: int | None  # lists that a search by an index looks at; None: exact


@dataclass(frozen=True)
class Release:
    """A release in memory."""

    facts: Facts
    retrieval: Retrieval
    prices: np.ndarray  # (items,), NaN where unknown
    users: Users
    ranker: Ranker | None
    next_item: NextItemModel | None
    creatives: tuple[Mapping[str, str], ...] = ()
    policy: Policy | None = None  # promoted, where one was

    @property
    def version(self) -> str:
        """Its name."""
        return self.facts.version

    @property
    def catalogue(self) -> Catalogue:
        """Its items."""
        return self.retrieval.catalogue


def save(release: Release, folder: Path, *, reference: pl.DataFrame | None = None) -> None:
    """Write a release into an empty folder; the manifest comes last, so that a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    _save_catalogue(release, folder / CATALOGUE)
    _save_weights(release.retrieval.ease, folder)
    (folder / VECTORS).mkdir(exist_ok=True)
    for model, vectors in release.retrieval.vectors.items():
        np.save(folder / VECTORS / f"{model}.npy", vectors)
    user_files.save(release.users, folder)
    if release.ranker is not None:
        (folder / RANKER).mkdir(exist_ok=True)
        rankers.save(release.ranker.scorer, folder / RANKER, RANKER_FIT)
        np.save(folder / RANKER / "usual.npy", release.ranker.usual)
    if release.next_item is not None:
        (folder / NEXT).mkdir(exist_ok=True)
        next_files.save(release.next_item, folder / NEXT)
    if release.policy is not None:
        release.policy.save(folder / POLICY)
    (folder / CREATIVES).write_text(json.dumps(list(release.creatives), indent=1))
    if reference is not None:
        reference.write_parquet(folder / REFERENCE)
    manifest = {
        "format": FORMAT,
        **_told(release.facts),
        "features": list(FEATURES),
        "files": {file.relative_to(folder).as_posix(): _sha256(file) for file in _files(folder)},
    }
    part = folder / f".{MANIFEST}"
    part.write_text(json.dumps(manifest, indent=1))
    part.replace(folder / MANIFEST)


ReadPolicy = Callable[[Path, Catalogue], Policy]  # its folder, the release's catalogue


def load(folder: Path, read_policy: ReadPolicy | None = None) -> Release:
    """What `save` wrote, checked; without `read_policy` a policy is left out.

    Raises:
        ValueError: it is of another format, or not whole; in one line.
    """
    told = _manifest(folder)
    try:
        facts = _facts(told)
        catalogue, prices = _load_catalogue(folder / CATALOGUE)
        vectors = {file.stem: np.load(file, allow_pickle=False) for file in sorted((folder / VECTORS).glob("*.npy"))}
        indexes = None
        if facts.ann_probes is not None:
            indexes = {model: ann.built(items, num_probes=facts.ann_probes) for model, items in vectors.items()}
        ease = _load_weights(folder)
        retrieval = Retrieval(facts.as_of, catalogue, ease, vectors, facts.num_proposed, indexes=indexes)
        ranker = None
        if (folder / RANKER).is_dir():
            scorer = rankers.load(folder / RANKER, RANKER_FIT)
            usual = np.load(folder / RANKER / "usual.npy", allow_pickle=False)
            ranker = Ranker(facts.versions["ranker"], scorer, usual)
        next_item = next_files.load(folder / NEXT)
        creatives = tuple(json.loads((folder / CREATIVES).read_text()))
        policy = None
        if read_policy is not None and (folder / POLICY).is_dir():
            policy = read_policy(folder / POLICY, catalogue)
        return Release(facts, retrieval, prices, user_files.load(folder), ranker, next_item, creatives, policy)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"release {folder.name} is not whole: {type(error).__name__}: {error}") from error


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"release {folder.name}: no {MANIFEST} that can be read ({type(error).__name__})") from None
    if told.get("format") != FORMAT:
        raise ValueError(
            f"release {folder.name} has format {told.get('format')}; this server reads {FORMAT}: publish again"
        )
    if told.get("features") != list(FEATURES):
        raise ValueError(f"release {folder.name} knows other features of a candidate: publish again")
    for name, known in told["files"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"release {folder.name} lacks its file {name}")
        if _sha256(file) != known:
            raise ValueError(f"release {folder.name}: {name} is not as it was written (its SHA-256 differs)")
    return told


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _told(facts: Facts) -> dict[str, Any]:
    return {
        "version": facts.version,
        "as_of": facts.as_of.isoformat(),
        "versions": dict(facts.versions),
        "wording": {"verb": facts.wording.verb, "min_support": facts.wording.min_support},
        "event_weights": dict(facts.event_weights),
        "relevant": facts.relevant,
        "visit_gap_minutes": facts.visit_gap_minutes,
        "num_proposed": facts.num_proposed,
        "max_per_category": facts.max_per_category,
        "ann_probes": facts.ann_probes,
    }


def _facts(told: Mapping[str, Any]) -> Facts:
    known = {name: told[name] for name in Facts.__dataclass_fields__}
    known |= {"as_of": datetime.fromisoformat(told["as_of"]), "wording": Wording(**told["wording"])}
    return Facts(**known)


def _save_catalogue(release: Release, file: Path) -> None:
    catalogue = release.catalogue
    paths = [*(LEVELS.join(path) for path in catalogue.tag_paths)]
    paths += [""] * (catalogue.num_tags - len(paths))
    rows = catalogue.sums.select(*ITEM_SUMS).with_columns(
        name=pl.Series(catalogue.names),
        tag=pl.Series(catalogue.tag),
        log_price=pl.Series(catalogue.log_price),
        price=pl.Series(release.prices),
    )
    rows.write_ipc(file, compression="uncompressed")
    (file.with_suffix(".json")).write_text(json.dumps({"tags": paths, "num_tags": catalogue.num_tags}))


def _load_catalogue(file: Path) -> tuple[Catalogue, np.ndarray]:
    rows = pl.read_ipc(file)
    told = json.loads(file.with_suffix(".json").read_text())
    paths = tuple(tuple(path.split(LEVELS)) if path else () for path in told["tags"][: told["num_tags"] - 1])
    catalogue = Catalogue(
        item_ids=rows["item_id"].to_arrow().cast(pa.string()),
        names=rows["name"].to_arrow().cast(pa.string()),
        sums=rows.select(*ITEM_SUMS),
        tag=rows["tag"].to_numpy().copy(),
        num_tags=told["num_tags"],
        log_price=rows["log_price"].to_numpy().copy(),
        tag_paths=paths,
    )
    return catalogue, rows["price"].to_numpy().copy()


def _save_weights(ease: Weights, folder: Path) -> None:
    if sp.issparse(ease):
        for name in EASE_PARTS:
            np.save(folder / f"ease_{name}.npy", getattr(ease, name))
        np.save(folder / "ease_shape.npy", np.array(ease.shape))
    else:
        np.save(folder / EASE, ease)


def _load_weights(folder: Path) -> Weights:
    if (folder / EASE).is_file():
        dense: Weights = np.load(folder / EASE, allow_pickle=False)
        return dense
    parts = tuple(np.load(folder / f"ease_{name}.npy", allow_pickle=False) for name in EASE_PARTS)
    return sp.csr_array(parts, shape=tuple(np.load(folder / "ease_shape.npy", allow_pickle=False)))
