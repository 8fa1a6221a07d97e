"""``python -m bench.comparison``: what optimizers reach on small problems, for docs/which-one.md."""
