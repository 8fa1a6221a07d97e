"""The pages as `make docs` built them: every link, anchor and picture leads somewhere."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "docs" / "_build"
PAGES = sorted(SITE.rglob("*.html"))

pytestmark = pytest.mark.skipif(not PAGES, reason="the pages are not built: make docs")


class Links(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []  # at once, when the page is opened
        self.without_text: list[str] = []
        self.for_one_theme: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        by_name = dict(attributes)
        self.anchors |= {value for key in ("id", "name") if (value := by_name.get(key))}
        self.targets += [value for key in ("href", "src") if (value := by_name.get(key))]
        if tag in ("script", "img", "iframe", "source") or by_name.get("rel") == "stylesheet":
            self.loaded += [value for key in ("href", "src", "srcset") if (value := by_name.get(key))]
        if tag == "img" and by_name.get("alt") is None:  # empty beside a title that says it
            self.without_text.append(str(by_name.get("src")))
        if (
            tag == "img"
            and ".svg" in str(by_name.get("src"))
            and "only-" not in str(by_name.get("class"))
        ):
            self.for_one_theme.append(str(by_name.get("src")))


@cache
def read(path: Path) -> Links:
    links = Links()
    links.feed(path.read_text("utf-8"))
    return links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in read(page).targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue  # elsewhere
        path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not path.exists():
            broken.append(target)
        elif parts.fragment and path.suffix == ".html":
            anchor = unquote(parts.fragment)
            if anchor not in read(path).anchors:
                broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    assert [target for target in read(page).loaded if urlsplit(target).netloc] == []


def test_no_style_loads_anything_from_elsewhere() -> None:
    for style in SITE.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text("utf-8")), style


def test_what_readers_look_for_is_found() -> None:
    """The search's index has the words of the field."""
    index = (SITE / "searchindex.js").read_text("utf-8")
    for word in "earli", "mix", "cite", "rate", "accumul", "glossari", "momentum":  # stems
        assert f'"{word}"' in index or f"{word}:" in index, word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_pictures_have_a_text(page: Path) -> None:
    assert not read(page).without_text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_drawn_figures_belong_to_a_theme(page: Path) -> None:
    assert not read(page).for_one_theme


def test_figures_come_for_light_and_dark() -> None:
    text = (SITE / "rmsprop.html").read_text("utf-8")
    assert text.count("only-light") == text.count("only-dark") >= 9
