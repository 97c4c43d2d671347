import numpy as np
import pyarrow as pa
import pytest

from lib.content.inputs import COLUMNS, TAGS, TEXT, described_items, price_classes, tags_of, unit_rows

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.list_(pa.string())),
        ("brand", pa.string()),
        ("price", pa.float64()),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)


def items(*rows: dict[str, object]) -> pa.Table:
    base = dict.fromkeys(COLUMNS)
    return pa.Table.from_pylist([{**base, "item_id": str(place), **row} for place, row in enumerate(rows)], SCHEMA)


def test_titles_of_the_same_words_are_near_and_an_item_without_one_lacks_the_modality() -> None:
    found = described_items(
        items({"title": "Red cotton shirt"}, {"title": "red shirt"}, {"title": "Garden hose"}, {"title": None}),
        num_dimensions=8,
        seed=0,
    )
    assert found.names == (TEXT,)
    assert found.known.ravel().tolist() == [True, True, True, False]
    near = found.values @ found.values.T
    assert near[0, 1] > 0.5 > abs(near[0, 2])
    np.testing.assert_allclose(np.diag(near), [1, 1, 1, 0], atol=1e-5)


def test_titles_that_are_left_to_a_sentence_model_are_not_hashed() -> None:
    found = described_items(
        items({"title": "Red shirt", "brand": "x"}, {"title": "Hose"}), num_dimensions=8, seed=0, with_titles=False
    )
    assert (found.names, found.known.ravel().tolist()) == ((TAGS,), [True, False])


def test_tags_are_each_level_of_the_category_the_brand_the_attributes_and_the_class_of_the_price() -> None:
    assert tags_of(["men", "shoes"], "Acme", {"colour": "red", "size": None}, 3) == [
        "category=men",
        "category=men>shoes",
        "brand=Acme",
        "colour=red",
        "price=3",
    ]
    assert tags_of(None, None, None, 3) == []  # a price alone says little


def test_prices_that_are_unknown_not_a_number_or_not_above_zero_have_no_class() -> None:
    prices = pa.chunked_array([[None, float("nan"), 0.0, -1.0, float("inf"), 1.0, 100.0]])
    assert price_classes(prices) == [None, None, None, None, None, 0, 9]
    assert price_classes(pa.chunked_array([[None, None]], pa.float64())) == [None, None]


def test_a_catalogue_that_says_nothing_has_no_modality() -> None:
    found = described_items(items({"price": 3.0}, {"title": ""}), num_dimensions=8, seed=0)
    assert (found.names, found.values.shape) == ((), (2, 0))


@pytest.mark.parametrize("num_items", [1, 3, 40])
def test_a_catalogue_of_any_size_is_described_with_rows_of_length_one(num_items: int) -> None:
    rows = [{"title": f"thing number {place}", "brand": f"b{place % 2}", "price": 1.0} for place in range(num_items)]
    found = described_items(items(*rows), num_dimensions=16, seed=0)
    assert found.names == (TEXT, TAGS)
    for own in np.split(found.values, np.cumsum(found.widths)[:-1], axis=1):
        np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, atol=1e-5)


def test_what_is_left_out_is_known_of_no_item_and_the_rest_stays() -> None:
    found = described_items(items({"title": "a b", "brand": "x"}, {"title": "c d"}), num_dimensions=8, seed=0)
    assert found.known.tolist() == [[True, True], [True, False]]
    assert found.without(TEXT).known.tolist() == [[False, True], [False, False]]


def test_a_row_of_zeros_stays_as_it_is() -> None:
    assert unit_rows(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]
