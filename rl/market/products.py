"""The market's products: their visible attributes, drawn or taken from photographed real products, and their hidden ones."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl.observation import Catalogue, Floats, Ints

LATENT = 8  # dimensions of hidden taste
NUM_COMPANIONS = 3
# Coarse category -> fine category: typical price.
DEPARTMENTS: dict[str, dict[str, float]] = {
    "Clothing": {"T-shirts": 19, "Shirts": 39, "Dresses": 59, "Jackets": 99},
    "Footwear": {"Sneakers": 79, "Boots": 119, "Sandals": 39, "Heels": 69},
    "Bags": {"Backpacks": 59, "Handbags": 89, "Wallets": 29, "Suitcases": 129},
    "Home": {"Mugs": 12, "Lamps": 49, "Cushions": 24, "Vases": 34},
    "Beauty": {"Lipsticks": 15, "Perfumes": 69, "Creams": 22, "Brushes": 18},
    "Accessories": {"Watches": 149, "Sunglasses": 79, "Hats": 25, "Rings": 89},
}
BRANDS = ("Aster", "Birch", "Cobalt", "Dune", "Ember", "Fjord", "Grove", "Halo", "Indigo", "Juno", "Kestrel", "Lumen")
COLOURS = ("Black", "White", "Grey", "Red", "Orange", "Yellow", "Green", "Teal", "Blue", "Purple", "Pink", "Brown")
STYLES = ("Classic", "Modern", "Slim", "Soft", "Bold", "Everyday", "Vintage", "Light", "Urban", "Pure")
COLUMNS = ("item_id", "title", "category", "subcategory", "brand", "colour", "price", "currency")


class Attributes(NamedTuple):
    """The attributes of I products in a catalogue; each tuple has I texts, price is (I,) in euros."""

    item_id: tuple[str, ...]
    title: tuple[str, ...]
    category: tuple[str, ...]  # coarse
    subcategory: tuple[str, ...]  # fine
    brand: tuple[str, ...]  # empty where none is known
    colour: tuple[str, ...]
    price: Floats

    def rows(self) -> Iterable[tuple[str, ...]]:
        """The rows of a catalogue file with columns COLUMNS."""
        texts = zip(*self[:6], strict=True)
        for text, price in zip(texts, self.price.tolist(), strict=True):
            yield (*text, f"{price:.2f}", "EUR")

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, str]]) -> "Attributes":
        """The attributes from the rows of a catalogue file, as `csv.DictReader` gives them."""
        kept = list(rows)
        item_id, title, category, subcategory, brand, colour = (
            tuple(row[name] for row in kept) for name in COLUMNS[:6]
        )
        price = np.array([float(row["price"]) for row in kept])
        return cls(item_id, title, category, subcategory, brand, colour, price)

    @property
    def catalogue(self) -> Catalogue:
        """The attributes as codes, as a policy observes them."""
        paths = list(zip(self.category, self.subcategory, strict=True))
        return Catalogue.of(paths, self.brand, self.price.tolist())


class Hidden(NamedTuple):
    """Hidden attributes of I products, which no log holds and which drive what shoppers do."""

    latent: Floats  # (I, LATENT) position in the space of tastes: the category's plus the product's own
    quality: Floats  # (I,) standard normal; a good product lifts the mood of those who click
    appeal: Floats  # (I,) how much it invites a click; negatively correlated with quality, so that some products only look good
    popularity: Floats  # (I,) standard normal, log scale
    companions: Ints  # (I, NUM_COMPANIONS) products of another category that its buyers buy next
    is_consumable: NDArray[np.bool_]  # (I,) bought again and again


def drawn_attributes(seed: int, num_items: int) -> Attributes:
    """A drawn catalogue: all fine categories about equally often, prices around the category's typical price."""
    rng = np.random.default_rng([seed, 1])
    fine = [(coarse, name, price) for coarse, names in DEPARTMENTS.items() for name, price in names.items()]
    kind = rng.permutation(np.arange(num_items) % len(fine))
    brand, colour, style = (rng.integers(len(names), size=num_items) for names in (BRANDS, COLOURS, STYLES))
    typical = np.array([price for _, _, price in fine], dtype=float)[kind]
    price = np.round(np.maximum(np.round(typical * np.exp(0.4 * rng.standard_normal(num_items))), 1.0) - 0.01, 2)
    return Attributes(
        tuple(f"p{i:05d}" for i in range(num_items)),
        tuple(
            f"{BRANDS[b]} {STYLES[s]} {COLOURS[c]} {_singular(fine[k][1])}"
            for b, s, c, k in zip(brand, style, colour, kind, strict=True)
        ),
        tuple(fine[k][0] for k in kind),
        tuple(fine[k][1] for k in kind),
        tuple(BRANDS[b] for b in brand),
        tuple(COLOURS[c] for c in colour),
        price,
    )


def photographed_attributes(products: Path, photographed: Ints, *, seed: int, num_items: int) -> Attributes:
    """A sample of `num_items` real products that have a picture; all of them if there are fewer.

    `products` is a CSV file with columns id, masterCategory, articleType, baseColour, productDisplayName; `photographed`
    are the ids with pictures. The file has neither brands nor prices: brands are empty, prices are drawn.

    Raises:
        ValueError: no product of the file has a picture.
    """
    wanted = set(photographed.tolist())
    with products.open(newline="", encoding="utf-8") as file:
        rows = sorted((row for row in csv.DictReader(file) if int(row["id"]) in wanted), key=lambda row: int(row["id"]))
    if not rows:
        raise ValueError(f"{products}: none of its products has a picture")
    rng = np.random.default_rng([seed, 1])
    rows = [rows[i] for i in np.sort(rng.permutation(len(rows))[:num_items])]
    kinds, kind = np.unique([row["articleType"] for row in rows], return_inverse=True)
    typical = np.exp(3.6 + 0.6 * rng.standard_normal(len(kinds)))[kind]
    price = np.round(np.maximum(np.round(typical * np.exp(0.4 * rng.standard_normal(len(rows)))), 1.0) - 0.01, 2)
    return Attributes(
        tuple(row["id"] for row in rows),
        tuple(row["productDisplayName"] or row["articleType"] for row in rows),
        tuple(row["masterCategory"] for row in rows),
        tuple(row["articleType"] for row in rows),
        ("",) * len(rows),
        tuple(row["baseColour"] for row in rows),
        price,
    )


def hide(seed: int, catalogue: Catalogue) -> Hidden:
    """Draw the hidden attributes of a catalogue's products."""
    rng = np.random.default_rng([seed, 2])
    num_items, num_categories = len(catalogue.category), int(catalogue.category.max()) + 1
    of_group = rng.standard_normal((int(catalogue.group.max()) + 1, LATENT))
    of_category = 0.8 * rng.standard_normal((num_categories, LATENT))
    own = 0.9 * rng.standard_normal((num_items, LATENT))
    latent = 0.5 * of_group[catalogue.group] + of_category[catalogue.category] + own
    latent *= np.sqrt(LATENT) / np.linalg.norm(latent, axis=1, keepdims=True)
    quality = rng.standard_normal(num_items)
    appeal = 0.8 * rng.standard_normal(num_items) - 0.6 * quality
    popularity = rng.standard_normal(num_items)
    is_consumable = np.isin(catalogue.category, rng.permutation(num_categories)[: max(num_categories // 4, 1)])
    return Hidden(latent, quality, appeal, popularity, _companions(rng, catalogue, own), is_consumable)


def _companions(rng: np.random.Generator, catalogue: Catalogue, style: Floats) -> Ints:
    """For each item, the items most similar in style from the category that is paired with its own: (I, NUM_COMPANIONS)."""
    num_categories = int(catalogue.category.max()) + 1
    order = rng.permutation(num_categories)
    partner = np.empty(num_categories, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    companions = np.empty((len(style), NUM_COMPANIONS), dtype=np.int64)
    for category in range(num_categories):
        items = np.flatnonzero(catalogue.category == category)
        others = np.flatnonzero(catalogue.category == partner[category])
        likeness = np.einsum("id,jd->ij", style[items], style[others])
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :NUM_COMPANIONS]
        companions[items] = others[nearest[:, np.arange(NUM_COMPANIONS) % nearest.shape[1]]]
    return companions


def _singular(plural: str) -> str:
    """The singular of a category: Dresses -> Dress, Boots -> Boot; Sunglasses stays."""
    if plural == "Sunglasses":
        return plural
    return plural.removesuffix("es") if plural in ("Dresses", "Watches", "Brushes") else plural.removesuffix("s")
