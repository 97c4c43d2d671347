"""The creatives of a product: the refused pictures, the chosen one, and its adverts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from PIL import Image

from gan.adverts.candidates import Candidate
from gan.adverts.composition import Copy, compose, marked, price_text
from gan.adverts.layouts import parse_size

IMAGE_SIDE = 320  # side in pixels of a picture that is shown alone


@dataclass(frozen=True)
class Product:
    """What an advert says about an item."""

    item_id: str
    title: str
    category: tuple[str, ...]  # coarse to fine
    brand: str | None
    price: Decimal | None
    currency: str | None

    @property
    def kicker(self) -> str | None:
        """The small line above the title: the brand, unless the title names it, else the category."""
        if self.brand and self.brand.lower() not in self.title.lower():
            return self.brand
        return self.category[-1] if self.category else None


@dataclass(frozen=True)
class Creative:
    """An image for an item: a picture alone (kind `image`) or an advert (kind `advert_<size>`)."""

    item_id: str
    kind: str
    category: str  # the generator's class
    candidate: Candidate
    image: Image.Image


def creatives_of(
    product: Product,
    category: str,
    refused: Sequence[Candidate],
    chosen: Candidate | None,
    *,
    call_to_action: str,
    sizes: Sequence[str],
) -> Iterator[Creative]:
    """The refused pictures, the chosen one, and its adverts in these sizes (`300x250`)."""
    for candidate in [*refused, chosen] if chosen else refused:
        yield Creative(product.item_id, "image", category, candidate, marked(candidate.picture, IMAGE_SIDE))
    if chosen is None:
        return
    price = price_text(product.price, product.currency)
    copy = Copy(product.title, call_to_action, product.kicker, price)
    for size in sizes:
        advert = compose(chosen.picture, copy, parse_size(size), palette_name=category)
        yield Creative(product.item_id, f"advert_{size}", category, chosen, advert.image)
