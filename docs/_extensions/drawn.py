"""The directive ``drawn``: a figure that exists twice, for light and for dark pages.

A name like ``/figures/speed`` stands for ``speed-light.svg`` and ``speed-dark.svg`` there. Those in
``/_drawn`` are made by `draw_all` each time the pages are built.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from roots_figures import FIGURES
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from bench.drawing import PALETTES, save


class Drawn(SphinxDirective):
    """``{drawn} name`` with the option ``alt``; the content is the caption."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        figure = nodes.figure(classes=["drawn"])
        for theme in PALETTES:
            image = nodes.image(uri=f"{self.arguments[0]}-{theme}.svg", alt=self.options["alt"])
            image["classes"].append(f"only-{theme}")
            figure += image
        caption = nodes.caption()
        parsed = self.parse_content_to_nodes()
        if parsed:
            caption += parsed[0].children
            figure += caption
        self.set_source_info(figure)
        return [figure]


def draw_all(app: Sphinx) -> None:
    for name, (draw, size) in FIGURES.items():
        save(draw, Path(app.srcdir) / "_drawn", name, size)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("drawn", Drawn)
    app.connect("builder-inited", draw_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
