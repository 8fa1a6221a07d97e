"""The columns of the table of arrays that compiled code steps.

A row describes the step of one array: its kernel, the address of its hyperparameters, its length, the
type, dtype and flags of its gradient, and the addresses of parameter, gradient and states. So one
launch serves a single buffer and a thousand arrays of several dtypes and groups alike.
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
    GRAIN,  # threads share the array at multiples of so many elements, a power of two
    COUNTS,  # address of the step counts: machine code reads the table, and writes elsewhere
    TYPE,  # of the gradient object: the address of numpy.ndarray,
    NONE,  # or this object, the address of None
    FLAGS,  # that the gradient must have: contiguous, aligned, perhaps writeable
    NDIM,
    HEADERS,  # address of the headers that the caller's arrays must have, see `arrays.object_headers`
    FIRST,  # index of the first element among those of all arrays; from here on a kernel reads the row
    PARAM,
    GRAD,
    STATE,  # and more, as many as the chain has slots
) = range(19)

# The counts of an array that the machine code of a step keeps.
(
    STEPS,  # taken
    LAG,  # steps without its gradient
) = range(2)

# What the check of gradients returns where all are valid and some are None; else -1, or a row.
SKIPPED = -2
