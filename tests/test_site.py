"""The site: what its navigation names is there, and links that are turned to its pages lead to them.

Without mkdocs, which `make docs` runs in its strict mode.
"""

from __future__ import annotations

import posixpath
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from handscroll.cli import app

ROOT = Path(__file__).parent.parent
WRITTEN = {path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")}


@pytest.fixture(scope="module")
def hook() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "pages.py"))


@pytest.fixture(scope="module")
def made(hook: dict[str, Any]) -> dict[str, str]:
    return dict(hook["made_pages"]())


def test_the_navigation_names_every_page(made: dict[str, str]) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(leaves(nav)) == sorted({*WRITTEN, *made} - {"LICENSE.txt"})


def test_links_lead_to_pages_of_the_site(hook: dict[str, Any], made: dict[str, str]) -> None:
    pages = made | {
        name: hook["with_links"](path.read_text(encoding="utf-8"), f"docs/{name}", name)
        for name, path in WRITTEN.items()
    }
    checked = 0
    for name, text in pages.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
            if re.match(r"\w+:", target):
                continue
            page, _, anchor = target.partition("#")
            found = posixpath.normpath(posixpath.join(posixpath.dirname(name), page)) if page else name
            if (ROOT / "docs" / found).suffix == ".svg":
                assert (ROOT / "docs" / found).is_file(), f"{name}: {target}"
                continue
            assert found in pages, f"{name}: {target}"
            assert not anchor or anchor in anchors(pages[found]), f"{name}: {target}"
            checked += 1
    assert checked > 50


def test_links_above_docs_are_turned(hook: dict[str, Any]) -> None:
    def turned(link: str, source: str, page: str) -> str:
        return str(hook["with_links"](f"see [it]({link})", source, page))

    assert turned("docs/long-context.md#methods", "README.md", "index.md") == "see [it](long-context.md#methods)"
    assert turned("../../CHANGELOG.md", "docs/decisions/0001.md", "decisions/0001.md") == "see [it](../changelog.md)"
    example = turned("../examples/extend.yaml", "docs/long-context.md", "long-context.md")
    assert example == "see [it](reference/examples.md#extendyaml)"
    assert turned("https://arxiv.org/abs/1", "README.md", "index.md") == "see [it](https://arxiv.org/abs/1)"
    assert hook["with_links"]("```\n[it](LICENSE)\n```\n", "README.md", "index.md") == "```\n[it](LICENSE)\n```\n"


def test_the_command_line_page_has_every_verb(made: dict[str, str]) -> None:
    page = made["reference/cli.md"]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"## handscroll {name}\n" in page
        for inner in getattr(command, "commands", {}):
            assert f"## handscroll {name} {inner}\n" in page
    assert "--skip-bad" in page


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(each)


def anchors(text: str) -> set[str]:
    """Of the headings, as the site names them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in headings}
