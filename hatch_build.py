"""The package's metadata: README with absolute links, and the project's URLs.

Both come from one setting, ``repository`` in pyproject.toml. README's own links are relative, as a
clone needs them; on a package index they would lead nowhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
_PICTURE = re.compile(r"<picture>.*?</picture>\s*", re.DOTALL)
_SOURCE = re.compile(r'\b(src|srcset)="(?!https?:)([^"]+)"')


def absolute(readme: str, repository: str) -> str:
    """README for an index: links and pictures lead into the repository; without one there are none."""
    if not repository:
        return _LINK.sub(r"\1", _PICTURE.sub("", readme))
    readme = _SOURCE.sub(rf'\1="{repository}/raw/HEAD/\2"', readme)
    return _LINK.sub(rf"[\1]({repository}/blob/HEAD/\2)", readme)


def urls(repository: str) -> dict[str, str]:
    """The project's pages, as an index lists them."""
    if not repository:
        return {}
    pages = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
    return {"Repository": repository, "Issues": f"{repository}/issues"} | {
        name: f"{repository}/blob/HEAD/{path}" for name, path in pages.items()
    }


class Hook(MetadataHookInterface):
    """What hatchling calls."""

    def update(self, metadata: dict[str, Any]) -> None:
        repository = self.config["repository"].rstrip("/")
        text = Path(self.root, "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, repository)}
        metadata["urls"] = urls(repository)
