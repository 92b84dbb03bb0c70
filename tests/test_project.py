"""What the project says about itself is true: links lead somewhere, commands exist, dependencies are pinned."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_package_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "src/handscroll" / name).exists()]
    assert not missing


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(page.name for page in folder.glob("0*.md"))
    assert [page[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    listed = re.findall(r"\]\((0[^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == pages


def test_both_readmes_show_the_same_code() -> None:
    english, chinese = (code_blocks(name, "bash") + code_blocks(name, "python") for name in READMES)
    assert english == chinese
    assert english


def test_targets_of_the_readme_exist_and_every_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    explained = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  ([a-z-]+) ", explained, flags=re.MULTILINE) == phony.split()
    for name in READMES:
        used = re.findall(r"make ([a-z-]+)", "\n".join([*code_blocks(name, "bash"), *inline_code(name)]))
        assert set(used) <= set(phony.split())


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            [version] = [specifier.version for specifier in pin.specifier if specifier.operator == "=="]
            pins[canonicalize_name(pin.name)] = version
    assert pins["torch"] == "2.13.0"
    for requirement in wanted:
        if requirement.name != project["name"]:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = re.findall(r"^make [a-z]+", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert commands == ["make check", "make test"]
    assert "make test\nmake check" in code_blocks("README.md", "bash")


def code_blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [block.strip() for block in re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)]


def inline_code(name: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)
