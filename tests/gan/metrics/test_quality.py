from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from gan.metrics.calibration import qualities
from gan.metrics.features import averaged
from gan.metrics.quality import CategoryQuality, ball_radii, inside_manifold, realism
from gan.training.dataset import PreparedPictures, prepare

POINTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [10.0, 0.0]])


@pytest.fixture(scope="module")
def discs(prepared: PreparedPictures) -> CategoryQuality:
    return qualities(prepared, [0])[0]


def test_the_mean_of_pixels_is_kept_when_a_picture_is_averaged() -> None:
    picture = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(1, 3, 4, 4)
    assert averaged(picture, 2)[0, 0] == pytest.approx(np.array([[2.5, 4.5], [10.5, 12.5]]) / 255)


def test_radii_and_manifold_by_hand() -> None:
    radii = ball_radii(POINTS, num_neighbours=2)
    assert radii == pytest.approx([2, 5**0.5, 5**0.5, 10])
    # 4 away from the nearest point on the left, but in the ball of the lone one; the other in none.
    found = inside_manifold(np.array([[5.0, 0.0], [-3.0, 0.0]]), POINTS, radii)
    assert found.tolist() == [True, False]


def test_realism_leaves_out_the_balls_of_points_that_stand_alone() -> None:
    radii = np.array([2.0, 2.0, 2.0, 10.0])
    assert realism(np.array([[4.0, 0.0]]), POINTS, radii) == pytest.approx([2 / 3])


def test_a_typical_real_picture_scores_a_half_noise_nothing_and_an_empty_one_hardly_more(
    discs: CategoryQuality, products: Callable[[str, int, int], np.ndarray]
) -> None:
    unseen = discs.quality(products("disc", 60, 9))
    assert 0.35 < unseen.mean() < 0.65
    noise = np.random.default_rng(0).integers(0, 256, size=(8, 3, 32, 32), dtype=np.uint8)
    assert discs.quality(noise).max() == 0
    assert discs.quality(np.full((1, 3, 32, 32), 245, np.uint8)).max() < 0.25


def test_quality_is_the_share_of_real_pictures_however_few_are_held_out(
    prepared: PreparedPictures, products: Callable[[str, int, int], np.ndarray]
) -> None:
    five = replace(prepared, is_held_out=np.arange(120) % 12 == 0)  # of 60 in a class
    found = np.sort(qualities(five, [0])[0].quality(products("disc", 400, 9)))
    assert len(np.unique(found)) > 100  # not 0, 0.2, 0.4, ...
    shares = np.arange(1, len(found) + 1) / len(found)  # what a perfect measure gives to so many real pictures
    assert np.abs(found - shares).max() < 0.2
    assert found.mean() == pytest.approx(0.5, abs=0.08)


def test_even_the_fewest_pictures_of_a_class_can_be_judged(
    products: Callable[[str, int, int], np.ndarray],
) -> None:
    few = prepare(
        {f"i{n}": picture for n, picture in enumerate(products("disc", 5, 0))},
        {f"i{n}": "disc" for n in range(5)},
        held_out_frac=0.15,
        seed=0,
    )
    found = qualities(few)[0].quality(products("disc", 20, 1))
    assert ((found >= 0) & (found <= 1)).all()


def test_a_picture_of_another_kind_scores_lower(
    discs: CategoryQuality, products: Callable[[str, int, int], np.ndarray]
) -> None:
    assert discs.quality(products("bar", 60, 9)).mean() < discs.quality(products("disc", 60, 9)).mean() - 0.2


def test_a_copy_counts_as_memorised_even_with_noise_and_an_unseen_picture_does_not(
    discs: CategoryQuality, prepared: PreparedPictures, products: Callable[[str, int, int], np.ndarray]
) -> None:
    training = prepared.of(0, held_out=False)
    assert discs.is_memorised(training).all()
    noise = np.random.default_rng(0).integers(-6, 7, size=training.shape)
    assert discs.is_memorised(np.clip(training + noise, 0, 255).astype(np.uint8)).all()
    assert discs.is_memorised(products("disc", 60, 9)).mean() < 0.2
