"""PyTorch as its users tune it on small data: tensors that are indexed, no loader, a fused optimizer."""

from typing import Any

import torch
from torch import nn

from xpmlp.benchmark.work import Contestant, Work, read_mnist


class Entry(Contestant):
    """An nn.Sequential, trained by hand."""

    def __init__(self, work: Work, backend: str) -> None:
        self.work = work
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.X, self.y, self.X_test, self.y_test = (torch.from_numpy(a).to(self.device) for a in read_mnist(work))
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(work.sizes, work.sizes[1:], strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.model: Any = nn.Sequential(*layers[:-1]).to(self.device)
        parameters = self.model.parameters()
        if work.optimizer == "adam":
            self.optimizer: Any = torch.optim.Adam(parameters, lr=work.learning_rate, fused=True)
        else:
            self.optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, fused=True)
        self.step = 0

    def epoch(self) -> None:
        """Train on every image once."""
        n, size = len(self.X), self.work.batch_size
        order = torch.randperm(n, device=self.device)
        for first in range(0, n, size):
            rows = order[first : first + size]
            self.train_on(self.X[rows], self.y[rows])
        self.finish()

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def train_on(self, X: Any, y: Any) -> None:
        """Make one step."""
        self.step += 1
        n_steps = -(-len(self.X) // self.work.batch_size) * self.work.epochs
        if self.work.optimizer != "adam":
            self.optimizer.param_groups[0]["lr"] = self.work.rate(self.step, n_steps)
        loss = nn.functional.cross_entropy(self.model(X), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def test_accuracy(self) -> float:
        """Return the accuracy over the test images."""
        with torch.inference_mode():
            return float((self.model(self.X_test).argmax(1) == self.y_test).float().mean())

    def describe(self) -> dict[str, str]:
        """Return its version and precision."""
        return {
            "library": "torch",
            "version": str(torch.__version__),
            "device": str(self.device),
            "products": f"float32 at {torch.get_float32_matmul_precision()!r}",
        }
