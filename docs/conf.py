"""Sphinx settings: `make docs`."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import fastopt

HERE = Path(__file__).parent
PYPROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))
REPOSITORY = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

# What the examples draw has no window to go to.
os.environ["MPLBACKEND"] = "agg"

project = "fastopt"
copyright = "the fastopt authors"
version = release = fastopt.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # a page for each public name
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # formulas need no network
    "drawn",  # figures for light and dark pages, made here and now
    "named",  # every public name is in the reference
]
exclude_patterns = ["_build", "_drawn", "_templates"]
templates_path = ["_templates"]
nitpicky = True  # a reference that leads nowhere is a warning, and so an error
nitpick_ignore_regex = [("py:.*", r"(?!fastopt).*"), ("py:obj", r".*")]

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

default_role = "obj"  # a name in single backticks leads to its place in the reference, where it has one
# Pages are built without the libraries that fastopt works with: their names are enough.
autodoc_mock_imports = [name for name in ("cupy", "mpi4py", "torch") if find_spec(name) is None]
autodoc_typehints = "none"  # the docstrings say it
# Where file names have no case, `Chain` would be written over `chain`.
autosummary_filename_map = {"fastopt.Chain": "fastopt.Chain-class"}
numpydoc_show_class_members = False
numpydoc_validation_checks = {"GL08", "PR01", "PR02", "SS01"}
# Typed dicts have no signature to compare their parameters with.
numpydoc_validation_exclude = {r"\.SharedOptions$", r"\.Added$"}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$" if find_spec("torch") else r"(?<!torch_network)\.py$",
    "run_stale_examples": True,  # they are tests too, of a package that may have changed
    "abort_on_example_error": True,
    "image_srcset": ["2x"],
    "reset_modules": ("matplotlib", "gallery_style.neutral", "gallery_style.strict"),
    "reset_modules_order": "both",
    "remove_config_comments": True,
    "show_signature": False,
    "download_all_examples": False,
    "within_subsection_order": "ExampleTitleSortKey",
    "min_reported_time": 1e9,  # how long a build took says nothing
    "write_computation_times": False,  # and the page of it loads scripts from elsewhere
}
# A setting of the gallery is a class, which cannot be kept from build to build.
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = f"fastopt {version}"
html_static_path = ["_static"]
html_css_files = ["fastopt.css"]
html_js_files = ["sidebar.js"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#24292f", "color-brand-content": "#0969a8"},
    "dark_css_variables": {"color-brand-primary": "#e6edf3", "color-brand-content": "#58b4f0"},
}
if REPOSITORY:
    html_theme_options |= {
        "source_repository": REPOSITORY,
        "source_branch": "main",
        "source_directory": "docs/",
    }
copybutton_exclude = ".linenos, .gp, .go"
