"""A network as a module of PyTorch's own layers."""

from collections.abc import Callable, Sequence

import numpy as np

from xpmlp.errors import ExportError
from xpmlp.math.elements import LEAK
from xpmlp.models.model import ModelInfo

try:
    import torch
    from torch import nn
except ImportError:
    raise ExportError("PyTorch is not installed: pip install 'xpmlp[torch]'") from None

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "leaky_relu": lambda: nn.LeakyReLU(LEAK),
    "elu": nn.ELU,
    "softplus": lambda: nn.Softplus(threshold=40),  # its threshold of 20 would be visible in float64
    "silu": nn.SiLU,
    "gelu": lambda: nn.GELU("tanh"),
}
"""The activations of `xpmlp.math.activations`, by name."""


class Scaled(nn.Module):  # type: ignore[misc]
    """Layers for samples as in the data set, (n, *image_shape) or (n, d); the first layer gets (X − shift) · factor."""

    def __init__(self, shift: np.ndarray, factor: np.ndarray, layers: nn.Sequential) -> None:
        super().__init__()
        self.register_buffer("shift", torch.from_numpy(shift))
        self.register_buffer("factor", torch.from_numpy(factor))
        self.layers = layers

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the logits, (n, classes)."""
        scaled = (X.flatten(1) - self.shift) * self.factor
        return self.layers(scaled.to(self.layers[0].weight.dtype))


def to_torch(theta: np.ndarray, info: ModelInfo) -> nn.Module:
    """Return a model as a module; see `Model.to_torch`."""
    if info.scaling:  # in float64, as in xpmlp: else the difference loses digits if a column is far from 0
        shift, factor = info.scaling.arrays("float64")
    else:
        shift, factor = np.zeros((1, 1), theta.dtype), np.full((1, 1), 1 / info.max_value, theta.dtype)
    return Scaled(shift, factor, of_layers(info.layout.unflatten(theta), "relu"))


def of_layers(layers: Sequence[tuple[np.ndarray, np.ndarray]], activation: str | Sequence[str]) -> nn.Sequential:
    """Return the computation of `xpmlp.math.network.forward`, from X to S, with a copy of the parameters.

    Parameters
    ----------
    layers : sequence of (W, b)
        W (fan_in, fan_out), b of fan_out numbers.
    activation : str or sequence of str
        As in `forward`.
    """
    n_hidden = len(layers) - 1
    each = [activation] * n_hidden if isinstance(activation, str) else list(activation)
    modules: list[nn.Module] = []
    for k, (W, b) in enumerate(layers):
        if k > 0:
            if each[k - 1] not in ACTIVATIONS:
                raise ExportError(f"activation {each[k - 1]!r}: PyTorch has {', '.join(ACTIVATIONS)}")
            modules.append(ACTIVATIONS[each[k - 1]]())
        weight, bias = torch.from_numpy(W.T.copy()), torch.from_numpy(b.reshape(-1).copy())
        linear = nn.utils.skip_init(nn.Linear, *W.shape, dtype=weight.dtype)  # which draws no random numbers
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        modules.append(linear)
    return nn.Sequential(*modules)
