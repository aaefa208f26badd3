"""PyTorch as its users tune it on small data, as its tutorials write it with a DataLoader, and with torch.compile."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xpmlp.benchmark.work import Contestant, Work, read_mnist


def enter(work: Work, name: str) -> Contestant:
    """Return an nn.Sequential with a fused optimizer, trained by hand."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    X, y, X_test, y_test = (torch.from_numpy(array).to(device) for array in read_mnist(work))
    layers = [layer for shape in itertools.pairwise(work.sizes) for layer in (nn.Linear(*shape), nn.ReLU())]
    model: Any = nn.Sequential(*layers[:-1]).to(device)
    if work.optimizer == "adam":
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=work.learning_rate, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=work.momentum, nesterov=True, fused=True)
    if name == "pytorch-compile":  # it needs a C++ compiler
        model = torch.compile(model, mode="reduce-overhead" if device.type == "cuda" else None)
    loader = DataLoader(TensorDataset(X, y), work.batch_size, shuffle=True) if name == "pytorch-dataloader" else None
    step = 0

    def indexed() -> Iterator[Any]:
        for rows in torch.randperm(len(X), device=device).split(work.batch_size):
            yield X[rows], y[rows]

    def epoch() -> None:
        nonlocal step
        for inputs, labels in loader or indexed():
            step += 1
            if work.optimizer != "adam":
                optimizer.param_groups[0]["lr"] = work.rate(step)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def test_accuracy() -> float:
        with torch.inference_mode():
            return float((model(X_test).argmax(1) == y_test).float().mean())

    products = f"float32 at {torch.get_float32_matmul_precision()!r}"
    about = {"library": "torch", "version": str(torch.__version__), "device": str(device), "products": products}
    return Contestant(epoch, test_accuracy, about)
