"""The columns of the table that tells compiled code what to work on.

One row holds the whole work on one array: its kernel, the address of its hyperparameters, its length,
what its gradient must look like, and the addresses of parameter, gradient and states. So one launch
serves a single buffer and a thousand arrays of several dtypes and groups alike.
"""

(
    KERNEL,  # address of the machine code
    HYPER,  # address of the hyperparameters,
    HYPER_LAG,  # and the lag that they are for
    FORMAT,  # of the gradient: which of the floating-point formats, by number,
    ITEMSIZE,  # how many bytes an element,
    DTYPE,  # and the address of its dtype object; up to here a row changes as a whole
    LENGTH,  # elements
    COUNT,  # elements to step now: LENGTH, or 0 where the gradient is None
    COUNTS,  # address of the counts of steps: what machine code writes lies apart from what it reads
    TYPE,  # of the gradient object: the address of numpy.ndarray,
    NONE,  # or this object, the address of None
    FLAGS,  # that the gradient must have: contiguous, aligned, perhaps writeable
    NDIM,
    HEADERS,  # address of what the headers of the caller's arrays must say, see `arrays.object_headers`
    FIRST,  # the number of the first element among all; from here on a kernel reads the row
    PARAM,
    GRAD,
    STATE,  # and more, as many as the chain has slots
) = range(18)

# What the machine code of a step counts for each array.
(
    STEPS,  # that were taken
    LAG,  # steps that it was left out of
) = range(2)
