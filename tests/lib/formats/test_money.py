from decimal import Decimal

import pytest

from lib.formats.mapping import LogMapping, parse_mapping
from lib.formats.money import has_several, rates_of, without_rate

OWN = """
name: shop
currency: EUR
rates: {JPY: 0.00625, USD: "0.9"}
sources:
  lines:
    files: "*.csv"
    names: {item_id: item, event_time: ts, price: price, currency: currency}
    events: [{type: purchase}]
"""
WITHOUT_RATES = OWN.replace('rates: {JPY: 0.00625, USD: "0.9"}\n', "")
WITHOUT_CURRENCY = WITHOUT_RATES.replace("currency: EUR\n", "")


def mapping(text: str = OWN) -> LogMapping:
    return parse_mapping(text, "own.yaml")


def test_rates_convert_into_the_mappings_currency_to_the_last_digit() -> None:
    assert rates_of(mapping(), {"EUR"}) == {"EUR": 1, None: 1, "JPY": Decimal("0.00625"), "USD": Decimal("0.9")}
    assert rates_of(mapping(WITHOUT_RATES), {"EUR", "JPY"}) == {"EUR": 1, None: 1}


def test_without_a_currency_of_its_own_a_log_of_one_currency_is_summed_in_it_and_one_of_several_not_at_all() -> None:
    assert rates_of(mapping(WITHOUT_CURRENCY), {"PLN"}) == {"PLN": 1}
    assert rates_of(mapping(WITHOUT_CURRENCY), {None}) == {None: 1}
    assert rates_of(mapping(WITHOUT_CURRENCY), {"PLN", None}) == {}
    assert rates_of(mapping(WITHOUT_CURRENCY), set()) == {}


def test_what_cannot_be_added_is_said_in_one_line() -> None:
    assert without_rate(mapping(), {"EUR", "JPY"}) is None
    assert without_rate(mapping(), {"EUR", "CHF", "SEK"}) == (
        "prices in CHF, SEK are never added to others, and sums of money that they would enter are null; give the "
        "mapping rates, such as `rates: {CHF: <EUR for one>}`"
    )
    assert "give the mapping a currency" in str(without_rate(mapping(WITHOUT_CURRENCY), {"EUR", None}))


def test_only_a_source_with_a_currency_of_its_own_can_bring_another() -> None:
    assert has_several(mapping())
    assert not has_several(mapping(OWN.replace(", currency: currency", "")))
    signs = "reader: {currency_signs: {€: EUR, ¥: JPY}}"
    assert has_several(
        mapping(OWN.replace(", currency: currency", "").replace("    names:", f"    {signs}\n    names:"))
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("JPY: 0.00625", "JPY: 0", "rates: JPY is worth 0 EUR"),
        ("JPY: 0.00625", "JPY: -1", "rates: JPY is worth -1 EUR"),
        ("JPY: 0.00625", "jpy: 1", "rates: 'jpy' should be the ISO 4217 code of another currency"),
        ("JPY: 0.00625", "EUR: 1", "rates: 'EUR' should be the ISO 4217 code of another currency"),
        ("JPY: 0.00625", "JPY: much", "rates: Input should be a valid decimal, not 'much'"),
        ("currency: EUR\n", "", "rates need a currency"),
    ],
)
def test_an_impossible_rate_is_one_line(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"own\.yaml: ") as error:
        mapping(OWN.replace(old, new, 1))
    assert message in str(error.value)
