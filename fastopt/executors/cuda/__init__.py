"""The executor for arrays on a CUDA device.

`source` writes the kernels of a chain, `access` its loads and stores, `kernels` compiles them,
`launches` prepares and starts them, `steps` takes a step with them. Only `device` imports `numba.cuda`.
"""
