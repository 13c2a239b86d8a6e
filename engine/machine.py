"""What this machine can do, and how to make its allocator serve training."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def has_native_bf16() -> bool:
    """Whether bf16 products run in hardware; elsewhere they are emulated, several times slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keep_freed_memory() -> None:
    """Give back what was freed so far, and have glibc keep from now on what is freed, for the next step.

    A step on a CPU allocates and frees gigabytes in large blocks, and fetching each from the kernel anew cost a fifth of
    the time (measured: LOG.md). What came before training (a corpus was read) would only lie there. Does nothing without
    glibc.
    """
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.malloc_trim(0)
            libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        except (OSError, AttributeError):
            return
