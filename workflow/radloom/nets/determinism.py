"""Torch's switches for numbers that are the same each time."""

from __future__ import annotations

import os

import torch


def be_deterministic(deterministic: bool = True, threads: int = 1) -> None:
    """Let torch compute the same numbers each time, with so many threads; the number of threads can change them."""
    # cuBLAS is deterministic only with a workspace of fixed size, which is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # The same as `use_deterministic_algorithms`, which imports torch's compiler as well, for two seconds a process.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # Filling every fresh tensor takes a tenth of the time, and none is read before it is written here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = not deterministic
    torch.backends.cudnn.allow_tf32 = not deterministic
