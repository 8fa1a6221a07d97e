"""The columns of the table that tells compiled code what to work on.

One row holds the whole work on one array: its kernel, the address of its hyperparameters, its length,
what its gradient must look like, and the addresses of parameter, gradient and states. So one launch
serves a single buffer and a thousand arrays of several dtypes and groups alike.
"""

(
    KERNEL,  # address of the machine code
    HYPER,  # address of the hyperparameters
    LENGTH,  # elements
    COUNT,  # elements to step now: LENGTH, or 0 where the gradient is None
    ITEMSIZE,  # bytes an element of parameter and gradient
    TYPE,  # of the gradient object: the address of numpy.ndarray,
    NONE,  # or this object, the address of None
    DTYPE,  # address of the gradient's dtype object
    FLAGS,  # that the gradient must have: contiguous, aligned, perhaps writeable
    NDIM,
    SHAPE,  # address of the lengths of the dimensions
    PARAM,
    GRAD,
    STATE,  # and more, as many as the chain has slots
) = range(14)
