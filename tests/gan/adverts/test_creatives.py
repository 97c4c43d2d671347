from gan.adverts.creatives import Product


def test_the_small_line_names_the_brand_unless_the_title_does() -> None:
    def kicker(title: str, brand: str | None, category: tuple[str, ...]) -> str | None:
        return Product("a", title, category, brand, None, None).kicker

    assert kicker("A red bar", "Kestrel", ("Shapes", "Bars")) == "Kestrel"
    assert kicker("KESTREL bar", "Kestrel", ("Shapes", "Bars")) == "Bars"
    assert kicker("A red bar", None, ()) is None
