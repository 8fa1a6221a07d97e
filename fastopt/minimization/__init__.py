"""Minimizing a function: from SciPy's arguments to its result, an optimizer's steps between."""
