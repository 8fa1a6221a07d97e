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
    FORMAT,  # of the gradient: which of the floating-point formats, by number,
    ITEMSIZE,  # and how many bytes an element
    TYPE,  # of the gradient object: the address of numpy.ndarray,
    NONE,  # or this object, the address of None
    DTYPE,  # address of the gradient's dtype object
    FLAGS,  # that the gradient must have: contiguous, aligned, perhaps writeable
    NDIM,
    SHAPE,  # address of the lengths of the dimensions
    HEADERS,  # address of what the headers of the caller's arrays must say: `layouts.headers`
    FIRST,  # the number of the first element among all; from here on a kernel reads the row
    PARAM,
    GRAD,
    STATE,  # and more, as many as the chain has slots
) = range(17)

# What stands where in a buffer of hyperparameters.
(
    GRAD_FACTOR,  # what gradients are multiplied by
    PHASE,  # of the random bits of this step
    NUMBERS,  # of the transforms, one after the other
) = range(3)
