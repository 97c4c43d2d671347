"""Two workers on this machine, each a process: what they share, and that the towers learn the same as with one."""

from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from lib.models.fitting import unwrapped
from lib.models.two_tower import Pairs, PairSampler, TwoTower, sampled_softmax_loss, train_epoch
from lib.models.workers import average_row_gradients, rows_of_all_workers, total_over_workers

BATCH = 8
TARGETS = torch.arange(BATCH) % 5
HISTORY = torch.stack([torch.arange(BATCH) % 5, (torch.arange(BATCH) + 2) % 5], dim=1)
LOG_Q = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1]).log()


def towers(*, is_sparse: bool = False) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(torch.tensor([[1], [2], [1], [0], [0]]), 4, is_sparse=is_sparse)


def gradient(model: torch.nn.Module, rank: int, num_workers: int) -> Tensor:
    """The item vectors' gradient of one batch that is shared out over the workers."""
    own = slice(rank * BATCH // num_workers, (rank + 1) * BATCH // num_workers)
    users, items = model(TARGETS[own], HISTORY[own])
    items, log_q = rows_of_all_workers(items), rows_of_all_workers(LOG_Q[TARGETS[own]])
    assert len(items) == BATCH, "as many negatives as with one worker"
    sampled_softmax_loss(users, items, log_q, first=own.start).backward()
    if unwrapped(model).is_sparse:
        average_row_gradients(model)
    (found,) = (p.grad for name, p in model.named_parameters() if name.endswith("item.weight"))
    assert found is not None
    return found


def weights_of_one_step(model: TwoTower, rank: int, num_workers: int) -> list[Tensor]:
    """Both tables after a step along that gradient."""
    gradient(model, rank, num_workers)
    torch.optim.SparseAdam(model.parameters(), lr=0.1).step()
    return [model.item.weight.detach(), model.tag.weight.detach()]


def mean_of_uneven_gradients(rank: int) -> Tensor:
    """Of a table, where the first worker has touched one row and the second two others and that one, and of one that nobody touched."""
    model = torch.nn.ParameterList([torch.zeros(4, 1), torch.zeros(2, 1)])
    rows, values = (([2], [6.0]), ([3, 2, 0], [1.0, 2.0, 4.0]))[rank]
    for table, touched, gradient in ((model[0], rows, values), (model[1], [], [])):
        indices, content = torch.tensor([touched], dtype=torch.int64), torch.tensor(gradient).reshape(-1, 1)
        table.grad = torch.sparse_coo_tensor(indices, content, table.shape, check_invariants=True)
    average_row_gradients(model)
    assert model[1].grad.coalesce().indices().numel() == 0
    found = model[0].grad.coalesce()
    assert found.indices().tolist() == [[0, 2, 3]], "each once, whoever has touched it"
    return found.to_dense()


def worker(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    total = total_over_workers(torch.tensor([float(rank + 1)]))
    found = gradient(DistributedDataParallel(towers()), rank, 2)
    sparse = gradient(towers(is_sparse=True), rank, 2).to_dense()
    stepped = weights_of_one_step(towers(is_sparse=True), rank, 2)
    seen: list[int] = []
    # Each worker's own users have items of their own, so that q differs between them.
    weight = torch.ones(2, dtype=torch.float64)
    sampler = PairSampler(
        Pairs(torch.tensor([0, 1]), torch.tensor([2 * rank, 4]), weight, weight), num_items=5, history_length=2
    )

    def gather(own: Tensor) -> Tensor:
        rows = rows_of_all_workers(own)
        seen.append(len(rows))
        return rows

    model = DistributedDataParallel(towers())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    train_epoch(model, optimizer, sampler, batch_size=4, num_batches=2, generator=generator, rank=rank, gather=gather)
    told = {
        "total": total,
        "gradient": found,
        "sparse": sparse,
        "stepped": stepped,
        "uneven": mean_of_uneven_gradients(rank),
        "rows": seen,
        "weights": model.module.item.weight.detach(),
    }
    torch.save(told, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_workers_have_the_negatives_of_one_and_learn_the_same(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["total"].tolist() == second["total"].tolist() == [3.0]
    alone = gradient(towers(), 0, 1)
    for told in (first, second):
        torch.testing.assert_close(told["gradient"], alone)
        torch.testing.assert_close(told["sparse"], alone)
        assert told["uneven"][:, 0].tolist() == [2.0, 0.0, 4.0, 0.5]
        torch.testing.assert_close(told["stepped"], weights_of_one_step(towers(is_sparse=True), 0, 1))
        assert told["rows"] == [2, 8, 8, 8, 8]  # q of both workers; then log q and the items of two batches
    torch.testing.assert_close(first["weights"], second["weights"])
