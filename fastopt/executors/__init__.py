"""The executors, which run the loop over the elements.

`cpu.kernels` fuses a chain into one kernel for the CPU, `cpu.drivers` run kernels over a table of
arrays on one core or on all, `cuda` does both on a device, `reference` runs the same scalar functions
in plain Python. `places` says which executors step the arrays of which place.
"""

from fastopt.executors import places as places
