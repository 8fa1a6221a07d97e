"""The definition, compilation, identity and caching of kernels, for every executor."""
