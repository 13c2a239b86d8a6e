"""What this machine can do, and how to make its allocator serve training."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# For an estimate of energy, in watts: a core with its share of memory and board, and the board power of GPUs.
CORE_WATTS, DEFAULT_GPU_WATTS = 10, 300
GPU_WATTS = {"H100 PCIe": 350, "H100": 700, "H200": 700, "A100": 400, "L4": 72, "T4": 70}


def has_native_bf16() -> bool:
    """Whether bf16 products run in hardware; elsewhere they are emulated, several times slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def hardware_info() -> dict:
    """{"cpu", "cpu_cores", "memory_gb", "gpus", "nodes", "estimated_watts"}: what a run is made on; watts: assumed, of it all.

    The estimate is CORE_WATTS for each core this process may use, and of a GPU what its maker says it draws at most.
    """
    processor, information = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if information.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", information.read_text(errors="replace"), re.MULTILINE)
        processor = names[0] if names else processor
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    machines = max(1, int(os.environ.get("WORLD_SIZE", "1")) // here)
    gpus = [torch.cuda.get_device_name(number) for number in range(min(here, torch.cuda.device_count()))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    drawn = sum(
        next((watts for name, watts in GPU_WATTS.items() if re.search(rf"\b{name}\b", gpu)), DEFAULT_GPU_WATTS)
        for gpu in gpus
    )
    return {
        "cpu": processor,
        "cpu_cores": cores,
        "memory_gb": round(memory / 2**30, 1),
        "gpus": gpus,
        "nodes": machines,
        "estimated_watts": machines * (cores * CORE_WATTS + drawn),
    }


def tune_malloc() -> None:
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
