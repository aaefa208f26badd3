"""PyTorch, on the CPU or a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xpmlp.backends.base import CPU_WAY_OUT, Backend, free_host_memory
from xpmlp.errors import BackendError

try:
    import torch
    from array_api_compat import torch as xp
except ImportError:
    raise BackendError(f"PyTorch is not installed: pip install 'xpmlp[torch]', {CPU_WAY_OUT}") from None


class TorchBackend(Backend):
    """PyTorch's tensors, through array-api-compat; ``torch`` is the CPU."""

    name = library = "torch"
    namespace = xp
    further_devices = ("cuda", "mps")
    out_of_memory = ("out of memory", "not enough memory")  # errors of a GPU, of the CPU

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        try:
            self.device = torch.device(device or "cpu")
            probe = torch.ones((2, 2), device=self.device)
            if float((probe @ probe).sum()) != 8.0:
                raise RuntimeError("a product of ones came out wrong")
            self.device = probe.device  # cuda becomes cuda:0
            if dtype == "float64":
                torch.ones(1, dtype=torch.float64, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            raise BackendError(
                f"torch cannot run on {device!r}: {str(error).splitlines()[0]}; "
                f"install a PyTorch build for that device, {CPU_WAY_OUT}"
            ) from None

    def _put(self, array: np.ndarray) -> Any:
        return torch.from_numpy(array).to(self.device)

    def _fetch(self, array: Any) -> np.ndarray:
        return np.array(array.detach().cpu().numpy(), order="C")

    @contextmanager
    def context(self) -> Iterator[None]:
        """Compute ordinary tensors, without gradient graphs and without the caller's autocast."""
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            yield

    def use_tf32(self) -> None:
        if self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) < (8, 0):
            super().use_tf32()
        torch.set_float32_matmul_precision("high")  # which on NVIDIA's GPUs is TF32

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def free_memory(self) -> int | None:
        """Return the free bytes, including unused memory in PyTorch's allocator."""
        if self.device.type == "cuda":
            held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return int(torch.cuda.mem_get_info(self.device)[0] + held)
        return free_host_memory() if self.device.type == "cpu" else None

    def describe(self) -> dict[str, str]:
        cuda = self.device.type == "cuda"
        return {
            "version": str(torch.__version__),
            "device": f"{torch.cuda.get_device_name(self.device)} ({self.device})" if cuda else str(self.device),
            "products": f"float32 at {torch.get_float32_matmul_precision()!r} "
            "(torch.set_float32_matmul_precision, NVIDIA_TF32_OVERRIDE)",
        }
