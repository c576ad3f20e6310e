"""Worker processes of a loader inside a job of `launcher=parallel`, which is a process of joblib's."""

import joblib
import numpy as np
import torch
from torch.utils.data import Dataset

from siglip_med.data.batch import Batch
from siglip_med.data.dataset import passthrough_collate
from siglip_med.data.loader import TimedLoader


class Rows(Dataset[Batch]):
    def __len__(self) -> int:
        return 20

    def __getitems__(self, rows: list[int]) -> Batch:
        index = torch.tensor(rows)
        return Batch(index.float()[:, None], torch.ones(len(rows), 2), index)


def read(workers: int) -> list[int]:
    loader = TimedLoader(Rows(), batch_size=4, num_workers=workers, collate_fn=passthrough_collate)
    return [int(row) for batch in loader for row in batch.index]


def test_jobs_side_by_side_may_have_workers_of_their_own() -> None:
    found = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(read)(2) for _ in range(2))
    assert np.array_equal(found, [list(range(20))] * 2)
