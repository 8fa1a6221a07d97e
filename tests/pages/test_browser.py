"""The pages as a browser shows them, on a wide screen and on a narrow one: nothing is out of reach."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pages import browser
from tests.pages.test_site import PAGES, SITE

FOUND = browser.find()

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="the pages are not built: make docs"),
    pytest.mark.skipif(FOUND is None, reason=f"there is no browser: {', '.join(browser.NAMES)}"),
]


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    assert FOUND is not None
    return browser.measure(FOUND, SITE, [str(page.relative_to(SITE)) for page in PAGES])


def test_no_page_is_wider_than_its_window(measured: dict[str, Any]) -> None:
    assert len(measured) == len(PAGES) * len(browser.WIDTHS)
    assert {where: page["over"] for where, page in measured.items() if page["over"] > 0} == {}


def test_tables_code_and_figures_can_be_reached(measured: dict[str, Any]) -> None:
    """They fit, or have a scroll bar that is in sight."""
    assert {where: page["cut"] for where, page in measured.items() if page["cut"]} == {}
