import numpy as np
import torch

from lib.content.fitting import ContentPlan, content_vectors, dropped, fit_fusion, fit_pictures, picture_vectors
from lib.content.inputs import Inputs, no_inputs, unit_rows
from lib.content.neighbours import agreement, nearest
from lib.content.networks import Fusion, PictureAgreement, augmented, info_nce
from lib.models.two_tower import Pairs, PairSampler

PLAN = ContentPlan(
    num_dimensions=8,
    picture_epochs=2,
    fusion_epochs=2,
    num_batches=30,
    picture_batch_size=16,
    batch_size=32,
    learning_rate=1e-2,
    history_length=4,
    dropped_frac=0.3,
    seed=0,
)


def two_modalities(num_items: int = 40) -> Inputs:
    """Items whose first modality says their group (of four) by direction, among noise, and whose second is noise."""
    rng = np.random.default_rng(0)
    says = np.eye(8, dtype=np.float32)[np.arange(num_items) % 4] + rng.normal(0, 0.5, (num_items, 8))
    noise = rng.normal(size=(num_items, 8))
    every = np.ones(num_items, bool)
    return no_inputs(num_items).with_modality("says", says, every).with_modality("noise", noise, every)


def sampler_of(inputs: Inputs) -> PairSampler:
    """Forty users, each of whom has all items of a group."""
    user = np.repeat(np.arange(40), 10)
    item = np.concatenate([np.arange(user % 4, len(inputs), 4) for user in range(40)])
    weight = torch.ones(len(user), dtype=torch.float64)
    pairs = Pairs(torch.from_numpy(user), torch.from_numpy(item), weight, weight)
    return PairSampler(pairs, num_items=len(inputs), history_length=PLAN.history_length)


def fitted(inputs: Inputs, sampler: PairSampler | None, plan: ContentPlan = PLAN, **given: object) -> Fusion:
    torch.manual_seed(0)
    fusion = Fusion(inputs.widths, plan.num_dimensions)
    fit_fusion(fusion, inputs, sampler, plan, **given)  # type: ignore[arg-type]
    return fusion


def test_the_fusion_learns_which_modality_says_what_the_same_users_choose() -> None:
    inputs = two_modalities()
    fusion = fitted(inputs, sampler_of(inputs))
    says, noise = fusion.shares()
    assert says > 0.6 > noise
    group = [str(place % 4) for place in range(len(inputs))]
    assert agreement(nearest(unit_rows(inputs.values), 5), group).mean() < 0.5
    assert agreement(nearest(content_vectors(fusion, inputs), 5), group).mean() > 0.7


def test_an_item_that_lacks_a_modality_has_a_vector_and_one_that_lacks_all_has_none() -> None:
    inputs = two_modalities()
    inputs.known[0, 1] = False
    inputs.known[1] = False
    vectors = content_vectors(fitted(inputs, sampler_of(inputs)), inputs)
    assert np.isnan(vectors[1]).all()
    np.testing.assert_allclose(np.linalg.norm(np.delete(vectors, 1, axis=0), axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[4] > vectors[0] @ vectors[2]  # 4 is of its group, 2 is not


def test_an_interrupted_fit_goes_on_to_the_same_weights() -> None:
    inputs, states = two_modalities(), []
    whole = fitted(inputs, sampler_of(inputs), keep=states.append)
    again = Fusion(inputs.widths, PLAN.num_dimensions)
    fit_fusion(again, inputs, sampler_of(inputs), PLAN, state=states[0])
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_without_interactions_the_weights_alone_are_learnt_and_one_modality_stays_as_it_is() -> None:
    inputs = two_modalities()
    alone = Inputs(("says",), (8,), inputs.values[:, :8], inputs.known[:, :1])
    vectors = content_vectors(fitted(alone, None), alone)
    np.testing.assert_allclose(vectors @ vectors.T, alone.values @ alone.values.T, atol=1e-5)
    torch.manual_seed(0)
    untrained = Fusion(inputs.widths, PLAN.num_dimensions)
    fusion = fitted(inputs, None)
    assert not torch.equal(fusion.log_weight, untrained.log_weight)
    for one, other in zip(fusion.project.parameters(), untrained.project.parameters(), strict=True):
        assert torch.equal(one, other)


def test_dropping_leaves_each_item_what_it_has_at_least_once() -> None:
    known = torch.tensor([[True, True, True], [False, True, False], [False, False, False]]).repeat(200, 1)
    kept = dropped(known, 0.9, torch.Generator().manual_seed(0))
    assert not (kept & ~known).any()
    assert torch.equal(kept.any(dim=1), known.any(dim=1))
    assert kept[::3].sum() < 0.5 * known[::3].sum()


def test_the_encoder_of_pictures_learns_what_is_said_of_them() -> None:
    rng = np.random.default_rng(0)
    kind = np.arange(64) % 4
    pixels = rng.integers(0, 60, (64, 3, 32, 32)).astype(np.uint8)
    for place in range(64):  # a bright square, in one of four corners by two brightnesses of green
        row, column = divmod(kind[place], 2)
        pixels[place, 1, 4 + 12 * row : 12 + 12 * row, 4 + 12 * column : 12 + 12 * column] += 150
    said = torch.from_numpy(np.eye(4, dtype=np.float32)[kind])
    torch.manual_seed(0)
    model = PictureAgreement(PLAN.num_dimensions, 4)
    losses: list[float] = []
    fit_pictures(
        model, torch.from_numpy(pixels), said, PLAN, num_batches=15, keep=lambda state: losses.append(state["loss"])
    )
    vectors = picture_vectors(model.encoder, pixels)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_info_nce_is_the_cross_entropy_of_finding_partners() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = info_nce(one, one, torch.tensor(2.0))
    assert abs(loss.item() - np.log(1 + np.exp(-2))) < 1e-6


def test_another_view_is_a_picture_of_the_same_size_in_the_same_range() -> None:
    pictures = torch.rand(5, 3, 32, 32)
    view = augmented(pictures, torch.Generator().manual_seed(0))
    assert view.shape == pictures.shape
    assert 0 <= view.min() < view.max() <= 1
    assert not torch.allclose(view, pictures)
