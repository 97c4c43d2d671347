import pytest

from gan.adverts.typesetting import Box, drawable, ellipsised, fit, font, text_width, wrap


def test_a_text_is_set_as_large_as_it_fits() -> None:
    box = Box(0, 0, 200, 40)
    short = fit("Mug", box, sizes=[30, 20, 10], weight="Bold", max_lines=2)
    long = fit("A mug of many words and little use", box, sizes=[30, 20, 10], weight="Bold", max_lines=2)
    assert (short.size, short.lines) == (30, ("Mug",))
    assert long.size < 30
    for text in (short, long):
        assert text.width <= box.width
        assert text.height <= box.height


def test_a_text_that_never_fits_ends_in_an_ellipsis_inside_its_box() -> None:
    box = Box(0, 0, 80, 30)
    text = fit("word " * 50, box, sizes=[12, 10], weight="Regular", max_lines=2)
    assert text.size == 10
    assert len(text.lines) == 2
    assert text.lines[-1].endswith("…")
    assert text.width <= box.width


def test_a_word_wider_than_the_line_is_broken_and_no_letter_is_lost() -> None:
    lines = wrap("Donaudampfschifffahrtsgesellschaft kurz", font("Bold", 14), 60)
    assert "".join(lines).replace(" ", "") == "Donaudampfschifffahrtsgesellschaftkurz"
    assert all(text_width(line, font("Bold", 14)) <= 60 for line in lines)


def test_lines_that_fit_are_left_as_they_are() -> None:
    assert ellipsised(["one", "two"], font("Bold", 10), 100, 2) == ["one", "two"]
    assert ellipsised(["one,", "two"], font("Bold", 10), 100, 1) == ["one…"]


def test_what_the_fonts_cannot_draw_is_left_out() -> None:
    assert drawable("Café\n №5 \U0001f45f 靴 €9") == "Café №5 €9"
    assert drawable("Cafe\u0301") == "Café"


@pytest.mark.parametrize("currency", "€$£¥₹₩₪₫")
def test_every_currency_sign_of_the_prices_can_be_drawn(currency: str) -> None:
    assert drawable(currency) == currency
