"""The columns of the table that tells compiled code what to work on.

One row holds the whole work on one array: its kernel, the address of its hyperparameters, its length,
what its gradient must look like, and the addresses of parameter, gradient and states. So one launch
serves a single buffer and a thousand arrays of several dtypes and groups alike.
"""

KERNEL, HYPER, LENGTH, ITEMSIZE, TYPE, DTYPE, NDIM, SHAPE, PARAM, GRAD, STATE = range(11)
