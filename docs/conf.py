"""Sphinx settings: `make docs`."""

import fastopt

project = "fastopt"
copyright = "the fastopt authors"
version = release = fastopt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_mock_imports = ["torch"]  # the pages are built without it
autodoc_typehints = "none"  # the docstrings say it
numpydoc_show_class_members = False
