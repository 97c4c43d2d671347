"""Headers that drift: the cases of ../shared/faults/19-header-drift and 23-header-newline."""

from pathlib import Path

from tests.shops import Shop


def test_values_with_line_breaks_are_whole_where_the_mapping_says_so(faults: Path, tmp_path: Path) -> None:
    shop = Shop.of_case(faults / "23-header-newline" / "c", tmp_path)
    assert shop.run().code == 0
    assert shop.lake.num_rows("silver/events") == 60
    assert sum("\n" in row["title"] for row in shop.read("bronze/events", "title")) == 3
