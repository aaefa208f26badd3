"""PyTorch as its tutorials write it: a DataLoader over a TensorDataset."""

from torch.utils.data import DataLoader, TensorDataset

from xpmlp.benchmark.contestants import pytorch
from xpmlp.benchmark.work import Work


class Entry(pytorch.Entry):
    """The same network and optimizer."""

    def __init__(self, work: Work, backend: str) -> None:
        super().__init__(work, backend)
        self.loader = DataLoader(TensorDataset(self.X, self.y), batch_size=work.batch_size, shuffle=True)

    def epoch(self) -> None:
        """Train on every image once."""
        for X, y in self.loader:
            self.train_on(X, y)
        self.finish()
