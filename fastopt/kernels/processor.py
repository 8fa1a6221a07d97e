"""The processor that code is compiled for, by LLVM's names.

That need not be the processor of this machine: ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` choose
another one, for instance ``generic`` for a cache that different machines share.
"""

from __future__ import annotations

from functools import cache

from llvmlite import binding

from fastopt.kernels.numba_settings import setting


def processor() -> str:
    """LLVM's name of the target processor."""
    return str(setting("CPU_NAME") or binding.get_host_cpu_name())


def target() -> tuple[str, str, str]:
    """LLVM's triple, name and features of the target, as Numba hands them to it."""
    chosen = setting("CPU_FEATURES")
    features = _features(bool(setting("ENABLE_AVX"))) if chosen is None else str(chosen)
    return _triple(), processor(), features


@cache
def _triple() -> str:
    return str(binding.get_process_triple())


@cache
def _features(with_avx: bool) -> str:
    """The features of this machine's processor."""
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know how to ask it
        return ""
    if not with_avx:
        features.update(dict.fromkeys((name for name in features if name.startswith("avx")), False))
    return str(features.flatten())
