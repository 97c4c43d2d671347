import numpy as np
import pytest

from rl.market.records import hashed


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        # The first value is the first output of the reference implementation of SplitMix64 with seed 0.
        # The others come from logs that were simulated before the function was shared.
        (0, [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1, 0x9E5651B0EF953636, 0x1FDD7128F310C389]),
        (7, [0xC584133AC916AB3C, 0x85E7BB0F12278575, 0x5B5F326DC867209A, 0xBC8B914D780CF5DC]),
        (2**32 + 7, [0xC584133AC916AB3C, 0x85E7BB0F12278575, 0x5B5F326DC867209A, 0xBC8B914D780CF5DC]),
    ],
)
def test_the_ids_of_a_log_stay_what_they_were(seed: int, expected: list[int]) -> None:
    assert hashed(np.array([0, 1, 8, 2**40]), seed).tolist() == expected


def test_distinct_numbers_get_distinct_hashes() -> None:
    assert len(np.unique(hashed(np.arange(100_000), seed=3))) == 100_000
