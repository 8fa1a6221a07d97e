"""The code in the README and in the pages runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastopt
from tests.support import compiled_suite_only

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTPUT = re.compile(r"^```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)  # right below code


def blocks(page: Path, language: str = "python") -> list[str]:
    """Python code, with its first line where it stands in the page, so that errors name the line."""
    text = page.read_text("utf-8")
    block = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, m.start(1)) + m[1] for m in block.finditer(text)]


# These need other libraries, as do blocks marked py: the tests of those libraries run them.
ELSEWHERE = {"torch.md", "mpi.md"}
WITH_LIBRARIES = ELSEWHERE | {"cuda.md", "recipes.md", "split-weights.md"}
WITH_CODE = [page for page in PAGES if blocks(page) and page.name not in ELSEWHERE]


@compiled_suite_only
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_runs(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And prints what the page shows, where it shows something."""
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "reader"}  # as a reader would: one block after the other
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), scope)
    assert capsys.readouterr().out == "".join(OUTPUT.findall(page.read_text("utf-8")))


def test_code_is_found() -> None:
    assert {"README.md", "own-transform.md"} <= {page.name for page in WITH_CODE}
    assert {page.name for page in PAGES if blocks(page, "py")} == WITH_LIBRARIES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_shown_that_does_not_run(page: Path) -> None:
    """A fence has a language that some test runs, an output that one compares, or a directive."""
    fences = re.findall(r"^ *```+(.*)$", page.read_text("utf-8"), re.MULTILINE)[::2]
    assert {fence for fence in fences if not fence.startswith("{")} <= {"python", "py", "text"}
    assert sum(fence in ("python", "py") for fence in fences) == sum(
        len(blocks(page, language)) for language in ("python", "py")
    )


LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)\"""")
WITH_LINKS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "bench" / "README.md"]


def anchors(page: Path) -> set[str]:
    """What can be linked to in a page: its headings, as GitHub and Sphinx name them, and labels."""
    text = page.read_text("utf-8")
    heads = re.findall(r"^(?:#+ (.+)|\((.+)\)=)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", (head or label).lower()) for head, label in heads)
    return {"-".join(head.split(" ")) for head in words}


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Those within the repository; the gallery is made when the pages are built, from examples/."""
    for target in ("".join(match) for match in LINK.findall(page.read_text("utf-8"))):
        name, _, anchor = target.partition("#")
        if "://" in name or name.startswith("gallery/"):
            continue
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize(
    "names", [fastopt.__all__, fastopt.schedules.__all__, fastopt.transforms.__all__]
)
def test_every_public_name_is_in_the_reference(names: list[str]) -> None:
    reference = ROOT / "docs" / "api.md"
    words = set(re.findall(r"\w+", reference.read_text("utf-8")))
    assert set(names) <= words
