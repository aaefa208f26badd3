"""A network as a module of PyTorch's own layers."""

from collections import OrderedDict
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
    "softplus": lambda: nn.Softplus(threshold=40),  # its 20 would be seen in float64
    "silu": nn.SiLU,
    "gelu": lambda: nn.GELU("tanh"),
}
"""Those of `xpmlp.math.activations`, by name."""


class Inputs(nn.Module):  # type: ignore[misc]
    """From samples as the data set has them, (n, *image_shape) or (n, d), to (X − shift) · factor, (n, d)."""

    def __init__(self, shift: np.ndarray, factor: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("shift", torch.from_numpy(shift))
        self.register_buffer("factor", torch.from_numpy(factor))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the rows that the first layer takes, of the buffers' dtype; a wider one is scaled as it comes."""
        return ((X.flatten(1) - self.shift) * self.factor).to(self.factor.dtype)


def to_torch(theta: np.ndarray, info: ModelInfo) -> nn.Module:
    """Return a model as a module; see `Model.to_torch`."""
    if info.scaling:
        shift, factor = info.scaling.arrays(theta.dtype.name)
    else:
        shift, factor = np.zeros((1, 1), theta.dtype), np.full((1, 1), 1 / info.max_value, theta.dtype)
    layers = of_layers(info.layout.unflatten(theta), "relu")
    return nn.Sequential(OrderedDict(inputs=Inputs(shift, factor), layers=layers))


def of_layers(layers: Sequence[tuple[np.ndarray, np.ndarray]], activation: str | Sequence[str]) -> nn.Sequential:
    """Return what `xpmlp.math.network.forward` computes, from X to S, of parameters on the host, which are copied.

    Parameters
    ----------
    layers : sequence of (W, b)
        W (fan_in, fan_out), b of fan_out numbers.
    activation : str or sequence of str
        As `forward` has it.
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
