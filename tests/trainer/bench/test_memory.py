"""What counts as memory that is not there."""

from __future__ import annotations

import pytest
import torch
from erasediff.trainer.bench.memory import is_short


def test_an_allocation_that_cannot_be_is_short() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_short(error.value)
    assert is_short(MemoryError()) and is_short(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


@pytest.mark.parametrize(
    "said",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_so_are_the_words_of_cudas_libraries(said: str) -> None:
    assert is_short(RuntimeError(said))


@pytest.mark.parametrize(
    "said", ["mat1 and mat2 shapes cannot be multiplied", "CUDA error: device-side assert triggered"]
)
def test_other_errors_are_not(said: str) -> None:
    assert not is_short(RuntimeError(said)) and not is_short(ValueError(said))
