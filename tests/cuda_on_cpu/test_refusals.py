"""What the device does not have says so."""

import pytest

from tests.cuda_on_cpu.emulated import check  # skips this module where the device is not installed

import cupy  # isort: skip
from cupy.cuda import runtime  # isort: skip
from cupy_backends.cuda.libs import cublas  # isort: skip

NOT_SUPPORTED = {
    "managed memory": lambda: cupy.cuda.malloc_managed(10),
    "graphs": lambda: cupy.cuda.Stream(non_blocking=True).begin_capture(),
    "pools of CUDA's own": lambda: runtime.memPoolCreate(runtime.MemPoolProps(1, 0, 1, 0)),
    "texture memory": lambda: cupy.cuda.texture.CUDAarray(
        cupy.cuda.texture.ChannelFormatDescriptor(32, 0, 0, 0, 0), 10
    ),
    "memory for other processes": lambda: runtime.ipcGetMemHandle(0),
    "access to a peer": lambda: runtime.deviceEnablePeerAccess(0),
}


@pytest.mark.parametrize("what", NOT_SUPPORTED)
def test_the_runtime_refuses(what):
    with pytest.raises(runtime.CUDARuntimeError, match=r"^cudaErrorNotSupported: operation not supported") as error:
        NOT_SUPPORTED[what]()
    assert error.value.status == 801


def test_a_refusal_names_the_function():
    with pytest.raises(runtime.CUDARuntimeError, match="the emulated device has no mallocAsync"):
        runtime.mallocAsync(10, 0)


def test_cublas_refuses_what_is_not_written():
    handle = cupy.cuda.device.get_cublas_handle()
    x = cupy.ones(9)
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_NOT_SUPPORTED"):
        cublas.dtrsm(handle, 0, 0, 0, 0, 3, 3, x.data.ptr, x.data.ptr, 3, x.data.ptr, 3)


def test_cooperative_launches_are_refused():
    kernel = cupy.RawKernel('extern "C" __global__ void f() {}', "f", enable_cooperative_groups=True)
    with pytest.raises((cupy.cuda.driver.CUDADriverError, cupy.cuda.compiler.CompileException)):
        kernel((1,), (1,), ())


@pytest.mark.parametrize("call", ["random.rand(3)", "fft.fft(cupy.ones(3))", "linalg.svd(cupy.ones((3, 3)))"])
def test_libraries_that_are_not_there_are_missed_by_name(call):
    check(f"assert 'Failure finding \"lib' in error_of(lambda: cupy.{call})")
