from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from nectargan.errors import RunError
from nectargan.shortage import Shortage, shortage_of


def raised(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_real_allocations_that_fail() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**50)
    told = "Out of memory: 4,194,304.00 GiB more could not be allocated"
    assert shortage_of(of_torch.value) == Shortage("memory", told)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**55, np.uint8)
    told = "Out of memory: 32 PiB more could not be allocated"
    assert shortage_of(of_numpy.value) == Shortage("memory", told)
    with pytest.raises(MemoryError) as of_python:
        bytes(2**62)
    assert shortage_of(of_python.value) == Shortage("memory", "Out of memory")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            # As CUDA says it.
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"),
            Shortage("memory", "Out of memory: 2.5 GiB more could not be allocated"),
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
            Shortage("memory", "Out of memory"),
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Shortage("memory", "Out of memory")),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            Shortage("room", "'a/b' cannot be written: No space left on device"),
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            Shortage("room", "'the run' cannot be written: File too large"),
        ),
        (
            RuntimeError("unable to open shared memory object </x>: Too many open files (24)"),
            Shortage("files", "Too many files are open"),
        ),
        (
            RuntimeError("can't start new thread"),
            Shortage("processes", "No more threads or processes can be started"),
        ),
        (raised(ValueError("x"), MemoryError()), Shortage("memory", "Out of memory")),
        (
            raised(RunError("'x' cannot be written: full."), OSError(errno.ENOSPC, "full")),
            Shortage("room", "'x' cannot be written: full"),
        ),
        (RunError("'x' is in use."), None),
        (raised(RunError("'x' is damaged."), ValueError("a row")), None),
        (OSError(errno.ENOENT, "No such file or directory", "x"), None),
        (RuntimeError("shapes cannot be multiplied"), None),
        (ValueError("out of memory lane"), None),
        (None, None),
    ],
)
def test_what_there_is_too_little_of(error: Exception, expected: Shortage | None) -> None:
    assert shortage_of(error, "the run") == expected


def test_a_circle_of_errors_comes_to_an_end() -> None:
    one, two = ValueError(), KeyError()
    one.__context__, two.__context__ = two, one
    assert shortage_of(one) is None
