"""The machine's capabilities, and allocator settings for training."""

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Watts for energy estimates: a core with its share of memory and board, and the board power of GPUs.
CORE_WATTS, DEFAULT_GPU_WATTS = 10, 300
GPU_WATTS = {"H100 PCIe": 350, "H100": 700, "H200": 700, "A100": 400, "L4": 72, "T4": 70}


def has_native_bf16() -> bool:
    """Return whether bf16 products run in hardware; emulation is several times slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def gpu_watts(gpu: str) -> int:
    """Return the maximum board power of a GPU by its name."""
    return next((watts for name, watts in GPU_WATTS.items() if re.search(rf"\b{name}\b", gpu)), DEFAULT_GPU_WATTS)


def hardware_info() -> dict:
    """Describe a run's hardware; estimated_watts: CORE_WATTS per available core plus each GPU's maximum."""
    cpu, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")  # psutil lacks the name
    if cpuinfo.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        cpu = names[0] if names else cpu
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = max(1, int(os.environ.get("WORLD_SIZE", "1")) // local_processes)
    gpus = [torch.cuda.get_device_name(index) for index in range(min(local_processes, torch.cuda.device_count()))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_gb = round(psutil.virtual_memory().total / 2**30, 1)
    info = {"cpu": cpu, "cpu_cores": cores, "memory_gb": memory_gb, "gpus": gpus, "nodes": nodes}
    return {**info, "estimated_watts": nodes * (cores * CORE_WATTS + sum(map(gpu_watts, gpus)))}


def tune_malloc() -> None:
    """Return freed memory to the system once, then make glibc keep what is freed for the next step.

    A CPU step frees gigabytes in large blocks; requesting them again took a fifth of its time (docs/lab-notebook).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not glibc
            libc = ctypes.CDLL("libc.so.6")
            libc.malloc_trim(0)
            libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
