"""PyTorch with torch.compile around the network; it needs a C++ compiler."""

import torch

from xpmlp.benchmark.contestants import pytorch
from xpmlp.benchmark.work import Work


class Entry(pytorch.Entry):
    """The same network and optimizer."""

    def __init__(self, work: Work, backend: str) -> None:
        super().__init__(work, backend)
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self.model = torch.compile(self.model, mode=mode)
