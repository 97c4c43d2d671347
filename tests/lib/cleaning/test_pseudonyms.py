from pathlib import Path

import polars as pl
import pytest

from lib.cleaning.pseudonyms import default_key_file, fingerprint, load_key, pseudonyms
from lib.pipeline import ROOT
from lib.settings import PrivacySettings


def test_a_pseudonym_is_the_hmac_of_rfc_4231_cut_to_32_digits() -> None:
    # RFC 4231, test case 2: key "Jefe", data "what do ya want for nothing?"
    user_ids = pl.Series(["what do ya want for nothing?", None, ""])
    assert pseudonyms(user_ids, b"Jefe").to_list() == ["5bdcc146bf60754e6a042426089575c7", None, None]


def test_a_user_keeps_the_pseudonym_whatever_else_is_hashed_with_it() -> None:
    one = pseudonyms(pl.Series(["a", "b", "a"]), b"k" * 16)
    assert one[0] == one[2] == pseudonyms(pl.Series(["a"]), b"k" * 16)[0] != one[1]
    assert one[0] != pseudonyms(pl.Series(["a"]), b"l" * 16)[0]


def test_an_order_has_another_pseudonym_than_a_user_of_the_same_text() -> None:
    ids = pl.Series(["a", "a", None])
    orders = pseudonyms(ids, b"k" * 16, of="order")
    assert orders[0] == orders[1] != pseudonyms(ids, b"k" * 16)[0]
    assert orders[2] is None


def test_no_user_at_all_gives_no_pseudonym() -> None:
    assert pseudonyms(pl.Series([None], dtype=pl.String), b"k" * 16).to_list() == [None]
    assert pseudonyms(pl.Series([], dtype=pl.String), b"k" * 16).to_list() == []


def test_the_key_is_made_once_beside_the_lake_for_its_owner_alone(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    key = load_key(PrivacySettings(), lake)
    assert load_key(PrivacySettings(), lake + "/") == key
    assert (tmp_path / "lake.key").stat().st_mode & 0o777 == 0o600
    assert key.decode() not in fingerprint(key)
    assert fingerprint(key) != fingerprint(load_key(PrivacySettings(), str(tmp_path / "other")))


def test_a_lake_in_a_checkout_has_its_key_in_the_users_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("one", "other"):
        (tmp_path / name / ".git").mkdir(parents=True)
    keys = [load_key(PrivacySettings(), str(tmp_path / name / "deeper" / "lake")) for name in ("one", "other")]
    assert keys[0] != keys[1]
    assert keys[0] == load_key(PrivacySettings(), str(tmp_path / "one" / "deeper" / "lake") + "/")
    assert default_key_file(str(ROOT / "shop")).parent == tmp_path / "config" / "cartwheel" / "keys"
    assert sorted(file.parent for file in tmp_path.rglob("*.key")) == [tmp_path / "config" / "cartwheel" / "keys"] * 2
    assert {file.stat().st_mode & 0o777 for file in tmp_path.rglob("*.key")} == {0o600}


def test_a_key_that_an_earlier_release_left_in_the_checkout_is_moved_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    (tmp_path / "checkout" / "lake.key").write_text("0123456789abcdef\n")
    assert load_key(PrivacySettings(), str(tmp_path / "checkout" / "lake")) == b"0123456789abcdef"
    assert list((tmp_path / "checkout").rglob("*.key")) == []


def test_the_key_comes_from_the_named_file_or_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    monkeypatch.setenv("SHOP_KEY", "0123456789abcdef")
    assert load_key(PrivacySettings(key_file=str(tmp_path / "key")), "lake") == b"0123456789abcdef"
    assert load_key(PrivacySettings(key_variable="SHOP_KEY"), "lake") == b"0123456789abcdef"


def test_without_a_key_there_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    for privacy, lake, message in [
        (PrivacySettings(key_variable="ABSENT_KEY"), "lake", "names ABSENT_KEY, which is not set"),
        (PrivacySettings(create_key=False), str(tmp_path / "lake"), r"no pseudonym key: .*lake\.key: No such file"),
        (PrivacySettings(), "s3://shop/lake", "set privacy.key_file"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_key(privacy, lake)
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ValueError, match="has 3 bytes; it needs at least 16"):
        load_key(PrivacySettings(key_file=str(tmp_path / "short")), "lake")
