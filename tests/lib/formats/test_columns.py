import pytest

from lib.formats.columns import ambiguous_column, columns_in_another_case, find_columns, locate, stored_names


def test_columns_get_names_that_delta_can_store_and_bronze_does_not_use() -> None:
    names = ("", "Unit Price", "unit_price", "malformed", "a=b`", "user-item_0", "unit\r\nprice", "*", "^a$", "x\0")
    assert stored_names(names) == (
        *("column_1", "Unit_Price", "unit_price_2", "malformed_2", "a_b_", "user-item_0"),
        *("unit_price_3", "_", "_a$", "x_"),
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("price", ["Price"]),
        ("UNIT PRICE", ["unit_price"]),
        ("who.id", ["who"]),
        ("a.b", ["a.b"]),
        ("A.B.c.d", ["a.b"]),
        ("f_*", ["f_1", "F_2"]),
        ("*", ["a.b", "f_1", "F_2", "Price", "unit_price", "who"]),
        ("absent", []),
        ("absent.x", []),
    ],
)
def test_a_name_finds_its_columns_in_any_case(name: str, found: list[str]) -> None:
    assert find_columns(["Price", "unit_price", "who", "a.b", "f_1", "F_2"], name) == found


def test_columns_of_a_pattern_are_in_the_order_of_their_names_whatever_that_of_the_table() -> None:
    columns = ["slot_10", "x", "slot_2", "Slot_1", "slot_2_b", "slot_02", "slot_", f"slot_{'9' * 5000}"]
    in_order = ["slot_", "Slot_1", "slot_02", "slot_2", "slot_2_b", "slot_10", f"slot_{'9' * 5000}"]
    for table in (columns, columns[::-1]):
        assert find_columns(table, "slot_*") == in_order


def test_a_nested_name_is_its_column_and_a_path() -> None:
    assert locate(["who"], "who.first name.$id") == ("who", "first name.$id")
    assert locate(["who.a"], "who.a.b") == ("who.a", "b")
    assert locate(["who"], "Who") == ("who", None)


def test_a_name_that_may_mean_several_columns_is_ambiguous() -> None:
    assert ambiguous_column(("item", "item"), ["item"]) == "has 2 columns that 'item' may mean: item, item"
    assert (
        ambiguous_column(("Price ", "price", "x"), ["x", "price"])
        == "has 2 columns that 'price' may mean: Price , price"
    )
    assert ambiguous_column(("who", "WHO"), ["who.id"]) == "has 2 columns that 'who' may mean: who, WHO"
    assert ambiguous_column(("item", "item"), ["item_2", "price"]) is None


def test_columns_in_another_case_are_told() -> None:
    assert columns_in_another_case(("User", "PRICE", "item", "Who"), ["user", "price", "item", "who.id", "x"]) == [
        "User",
        "PRICE",
        "Who",
    ]
