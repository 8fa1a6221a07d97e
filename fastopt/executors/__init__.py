"""Where and how the loop runs.

`cpu.kernels` fuses a chain into one kernel for the CPU, `cpu.drivers` run kernels over a table of
arrays on one core or on all, `cuda` does both on a device, `reference` runs the same scalar functions
in plain Python. `places` says which of them goes with which place of arrays.
"""

from fastopt.executors import places as places
