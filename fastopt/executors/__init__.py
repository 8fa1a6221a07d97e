"""Where and how the loop runs.

`compiled` fuses a chain into one kernel for the CPU, `drivers` run kernels over a table of arrays on
one core or on all, `reference` runs the same scalar functions in plain Python. Numba is imported
only from here, when the first optimizer is made.
"""
