"""What errors say of a device, in the words that PyTorch, cuDNN, cuBLAS, Triton and CUDA have for it."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import weakref

import pytest
import torch

from study.errors import StudyError
from study.models import device_errors
from study.models.device_errors import DeviceError, OutOfMemory, attempt, device_failed, fault, halved

ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
"""PyTorch adds it to every CUDA error, also to a lack of memory."""


class CudaError(RuntimeError):
    """As torch.cuda.CudaError, which only a build for CUDA can make."""


MEMORY = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1 GiB is free"
    ),
    torch.AcceleratorError("CUDA error: out of memory" + ADVICE),
    RuntimeError("CUDA error: out of memory" + ADVICE),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.93 GB, other allocations: 192.00 KB)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1016'),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB."),
    MemoryError("Unable to allocate 3.64 TiB for an array"),
]  # fmt: skip

UNCLEAR = [
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture" + ADVICE),
]

DEVICE = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered" + ADVICE),
    torch.AcceleratorError("CUDA error: device-side assert triggered" + ADVICE),
    torch.AcceleratorError("CUDA error: unspecified launch failure" + ADVICE),
    RuntimeError("CUDA error: uncorrectable ECC error encountered" + ADVICE),
    RuntimeError("CUDA error: misaligned address"),
    RuntimeError("CUDA error: unknown error"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device" + ADVICE),
    RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasLtMatmul( ltHandle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuFFT error: CUFFT_EXEC_FAILED"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
    RuntimeError(
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() "
        "that might have already set an error? Error 802: system not yet initialized"
    ),
    CudaError("an illegal memory access was encountered (700)"),
    DeviceError("GET was unable to find an engine to execute this computation"),
]

NEITHER = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    RuntimeError("CUDA error: invalid argument" + ADVICE),
    RuntimeError("CUDA error: invalid configuration argument" + ADVICE),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if the input is not contiguous."),
    torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing" + ADVICE),
    RuntimeError("out of resource: shared memory, Required: 180224, Hardware limit: 101376"),
    ValueError("CUDA error: this is a text that someone quotes"),
    KeyError("CUDA out of memory"),
    StudyError("the service says: CUDA out of memory"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((one, "memory") for one in MEMORY),
        *((one, "unclear") for one in UNCLEAR),
        *((one, "device") for one in DEVICE),
        *((one, None) for one in NEITHER),
    ],
    ids=lambda one: f"{type(one).__name__}: {str(one)[:60]}" if isinstance(one, Exception) else str(one),
)
def test_words(error, expected):
    assert fault(error) == expected
    assert device_failed(error) == (expected in ("device", "unclear"))


def raised(error: Exception, *then: Exception, cause: bool = False) -> Exception:
    """The last of some errors, each raised while the one before it was handled."""
    for one in then:
        try:
            try:
                raise error
            except Exception as before:
                if cause:
                    raise one from before
                raise one  # noqa: B904 - as an exit handler does
        except Exception as found:  # noqa: BLE001
            error = found
    return error


def test_an_error_that_comes_from_another_says_what_that_one_says():
    capture = torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")
    assert fault(raised(torch.OutOfMemoryError("CUDA out of memory"), capture)) == "memory"
    wrapped = raised(RuntimeError("CUDA error: device-side assert triggered"), StudyError("my.py failed"), cause=True)
    assert fault(wrapped) == "device"
    assert fault(raised(torch.OutOfMemoryError("CUDA out of memory"), StudyError("net: cannot be loaded"))) == "memory"
    broken = raised(
        torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: unspecified launch failure")
    )
    assert fault(broken) == "device"
    quiet = raised(RuntimeError("CUDA error: unspecified launch failure"), ValueError("no such layer"))
    quiet.__suppress_context__ = True
    assert fault(quiet) is None


def test_the_failed_pass_is_free_before_the_next_begins():
    """Its tensors hang on the traceback, here also in a circle that only the collector finds."""
    held = []

    def work():
        large = torch.zeros(1000)
        circle = [large]
        circle.append(circle)
        held.append(weakref.ref(large))
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    gc.disable()
    try:
        found = attempt(work)
        assert held[0]() is None
    finally:
        gc.enable()
    assert found == OutOfMemory(
        "RuntimeError: GET was unable to find an engine to execute this computation", certain=False
    )
    assert attempt(lambda: 3) == 3


def test_other_errors_are_raised_as_they_are():
    for error in (ValueError("shape"), RuntimeError("CUDA error: device-side assert triggered")):
        with pytest.raises(type(error)) as caught:
            attempt(lambda error=error: (_ for _ in ()).throw(error))
        assert caught.value is error


def test_a_device_that_only_seemed_to_lack_memory_fails(monkeypatch):
    """Its context is broken, which the next call to CUDA tells."""

    def synchronize():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        attempt(lambda: (_ for _ in ()).throw(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")))


def test_passes_are_halved_down_to_one_image():
    short, unclear = OutOfMemory("OutOfMemoryError: CUDA out of memory"), OutOfMemory("RuntimeError: GET …", False)
    assert [halved(size, short) for size in (64, 3, 2)] == [32, 1, 1]
    with pytest.raises(StudyError, match=r"too little memory for a pass \(OutOfMemoryError: CUDA out of memory\)"):
        halved(1, short, "a pass")
    with pytest.raises(DeviceError, match="GET …") as caught:
        halved(1, unclear)
    assert device_failed(pickle.loads(pickle.dumps(caught.value)))


LIMITED = """
import resource
import numpy as np
import torch
from study.models.predict import predict

class Wide:
    memory_format = torch.contiguous_format
    seen = []

    def logits(self, images):
        # 96 MiB for each image.
        wide = images.flatten(1)[:, :8].repeat(1, 3 * 2**20)
        self.seen.append(len(images))
        return wide[:, :10].clone()

torch.set_num_threads(1)
model = Wide()
pixels = np.random.default_rng(0).integers(0, 256, (16, 3, 4, 4), np.uint8)
few = predict(model, pixels[:4], batch=4)
model.seen.clear()
(used,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")]
limit = 1024 * used + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = predict(model, pixels, batch=16)
print(found.size, model.seen, (found.top5[:4] == few.top5).all())
"""


def test_memory_that_really_runs_out():
    """A process with 600 MiB for passes that take 1.5 GiB: the error is the allocator's own, and passes get smaller."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "[4,", "4,", "4,", "4]", "True"]


def test_nothing_is_imported_for_it():
    assert device_errors.__name__ == "study.models.device_errors"
    words = "import sys; import study.models.device_errors as one; one.attempt(int); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
