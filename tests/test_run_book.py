"""What the run book (docs/operations.md) tells to do: the lake is afterwards as if nothing had happened."""

import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.jobs.spark.test_backfill import shop_at
from tests.same import differences
from tests.shops import Shop


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Shop, Shop]:
    """Two shops of the same log, both with their tables."""
    shops = shop_at(tmp_path / "one"), shop_at(tmp_path / "other")
    for shop in shops:
        assert shop.run(last="featurize").code == 0
    return shops


def test_a_damaged_table_is_restored_and_the_next_run_changes_nothing_else(twins: tuple[Shop, Shop]) -> None:
    shop, untouched = twins
    for name in ("bronze/lines", "silver/events", "gold/interactions"):
        table = DeltaTable(shop.lake.uri(name))
        before = table.version()
        table.delete("1 = 1")
        assert differences(shop.lake, untouched.lake), "the damage shows"
        DeltaTable(shop.lake.uri(name)).restore(before)
    assert shop.run(last="featurize").code == 0
    assert differences(shop.lake, untouched.lake) == []


def test_what_can_be_made_again_is_removed_and_made(twins: tuple[Shop, Shop]) -> None:
    shop, untouched = twins
    for removed in (["silver", "gold"], ["silver/items"], ["gold/item_days"], ["gold/user_profiles"]):
        for place in removed:
            shutil.rmtree(shop.folder / "lake" / place)
        assert shop.run(last="featurize").code == 0
        assert differences(shop.lake, untouched.lake) == [], removed


def test_the_pseudonym_key_is_changed_by_making_silver_and_gold_anew(twins: tuple[Shop, Shop]) -> None:
    shop, untouched = twins
    (shop.folder / "lake.key").write_text("fedcba9876543210")
    for layer in ("silver", "gold"):
        shutil.rmtree(shop.folder / "lake" / layer)
    assert shop.run(last="featurize").code == 0
    keys = [{row["user_key"] for row in each.read("silver/events")} for each in twins]
    assert keys[0].isdisjoint(keys[1] - {None})
    assert len(keys[0]) == len(keys[1])
    assert len(shop.read("bronze/rejects")) == len(untouched.read("bronze/rejects"))
