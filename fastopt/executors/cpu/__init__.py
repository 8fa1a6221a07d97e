"""Loops in memory, compiled for one core or all. Nothing here imports CUDA."""
