import pytest
import torch
from torch import Tensor

from lib.models.row_adam import RowAdam


def moved(steps: list[dict[int, float]], *, num_rows: int, is_sparse: bool) -> Tensor:
    """A table of ones after steps along these gradients of rows, of which those not named have none, or one of 0."""
    table = torch.nn.Parameter(torch.ones(num_rows, 2))
    optimizer = RowAdam([table], learning_rate=0.1) if is_sparse else torch.optim.Adam([table], lr=0.1)
    for step in steps:
        rows, values = torch.tensor(list(step), dtype=torch.int64), torch.tensor([[v, -2 * v] for v in step.values()])
        gradient = torch.sparse_coo_tensor(rows[None], values.reshape(len(rows), 2), table.shape, check_invariants=True)
        table.grad = gradient if is_sparse else gradient.to_dense()
        optimizer.step()
    return table.detach()


def test_where_every_row_has_a_gradient_it_is_adam() -> None:
    steps = [{0: 0.5, 1: -1.0}, {1: 0.25, 0: 2.0}, {0: 1e-9, 1: 3.0}]
    torch.testing.assert_close(
        moved(steps, num_rows=2, is_sparse=True), moved(steps, num_rows=2, is_sparse=False), rtol=1e-6, atol=1e-7
    )


def test_a_first_step_goes_by_the_learning_rate_and_a_row_without_a_gradient_stays() -> None:
    found = moved([{2: 5.0}], num_rows=3, is_sparse=True)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.9, 1.1]]))


def test_a_row_between_two_gradients_stays_while_adam_moves_it_on() -> None:
    steps = [{0: 1.0}, {1: 1.0}]
    # Row 1 at the second step: averages of one gradient of 1, .1 and .001, corrected as of two, by .19 and .001999.
    assert moved(steps, num_rows=2, is_sparse=True)[:, 0].tolist() == pytest.approx(
        [0.9, 1 - 0.1 * (0.1 / 0.19) / (0.001 / 0.001999) ** 0.5]
    )
    assert moved(steps, num_rows=2, is_sparse=False)[0, 0] < 0.85


def test_several_gradients_of_a_row_count_as_their_sum_and_none_at_all_moves_nothing() -> None:
    table = torch.nn.Parameter(torch.ones(2, 1))
    optimizer = RowAdam([table], learning_rate=0.1)
    rows, values = torch.tensor([[0, 0]]), torch.tensor([[3.0], [-1.0]])
    table.grad = torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=True)
    optimizer.step()
    assert optimizer.state[table]["exp_avg"][:, 0].tolist() == pytest.approx([0.1 * 2, 0.0])
    before = table.detach().clone()
    rows, values = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 1)
    table.grad = torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=True)
    optimizer.step()
    assert torch.equal(table, before)
