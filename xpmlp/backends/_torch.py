"""PyTorch, on the CPU or a GPU."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp.backends._malloc import keep_freed_memory
from xpmlp.backends.base import CPU_WAY_OUT, Backend, Step, free_host_memory, host_array
from xpmlp.errors import ArrayError, BackendError

try:
    import torch
    from array_api_compat import torch as namespace
except ImportError:
    raise BackendError(f"PyTorch is not installed: pip install 'xpmlp[torch]', {CPU_WAY_OUT}") from None


class TorchBackend(Backend):
    """PyTorch's tensors, through array-api-compat; ``torch`` alone is its CPU."""

    name = "torch"
    library = "torch"

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        self.namespace = namespace
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

    @classmethod
    def devices(cls) -> tuple[str | None, ...]:
        """Return the devices that a listing tries."""
        return (None, "cuda", "mps")

    @classmethod
    def of(cls, array: Any) -> Self:
        """Return the backend of the tensor's device."""
        backend = cls.__new__(cls)  # without __init__'s trial: the tensor is there, so its device runs
        backend.namespace, backend.device = namespace, array.device
        return backend

    def asarray(self, host: Any, *, copy: bool | None = None) -> Any:
        """Return a tensor on the device; on the CPU it shares the host's memory unless `copy` is true."""
        array = host_array(host, copy=copy)
        try:
            return torch.from_numpy(array).to(self.device)
        except TypeError as error:
            raise ArrayError(f"PyTorch takes no {array.dtype}: {error}") from None

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return a copy on the host."""
        self._require_own(array)
        return np.array(array.detach().cpu().numpy(), order="C")

    def compile(self, step: Step, *, donate: Sequence[int] = ()) -> Step:
        """Return the step itself, and let its tensors' memory be used again from step to step."""
        if self.device.type == "cpu":
            keep_freed_memory()
        return step

    def use_tf32(self) -> None:
        """Set PyTorch's float32 products to ``high``, which on NVIDIA's GPUs is TF32."""
        if self.device.type != "cuda":
            super().use_tf32()
        torch.set_float32_matmul_precision("high")

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def free_memory(self) -> int | None:
        """Return the device's free memory, what PyTorch's allocator holds unused included."""
        if self.device.type == "cuda":
            held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return int(torch.cuda.mem_get_info(self.device)[0] + held)
        return free_host_memory() if self.device.type == "cpu" else None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether it is PyTorch's error for that, which on the CPU is a plain RuntimeError."""
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        return isinstance(error, RuntimeError) and "not enough memory" in str(error)

    def describe(self) -> dict[str, str]:
        """Return PyTorch's version, the device, and the precision of its float32 products."""
        cuda = self.device.type == "cuda"
        return {
            "version": str(torch.__version__),
            "device": f"{torch.cuda.get_device_name(self.device)} ({self.device})" if cuda else str(self.device),
            "products": f"float32 at {torch.get_float32_matmul_precision()!r} "
            "(torch.set_float32_matmul_precision, NVIDIA_TF32_OVERRIDE)",
        }
