"""Which elements there are: arrays in structures, and the table of addresses that kernels work from."""
