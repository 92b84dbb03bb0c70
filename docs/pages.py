"""Pages of the site that are made of what stands elsewhere, so that nothing is written twice (a hook of mkdocs).

- Home and 中文 are the two READMEs, the changelog is CHANGELOG.md: their links are turned to the pages of the site.
- The command line is what each verb's `--help` says, from the typer app itself.
- Example recipes are the files of examples/, as they are.
- A room's page is its docstrings; mkdocstrings writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parent.parent
EXAMPLES = "reference/examples.md"
# What stands outside of docs/ and is a page of the site, by the name that links call it.
MOVED = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh-CN.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE.txt",
    "examples": EXAMPLES,
}
ROOMS = ("model", "kvcache", "generation", "training", "measure", "text")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)([^)\s]*)\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file of docs/ holds (mutates `files`)."""
    from mkdocs.structure.files import File

    for name, content in made_pages().items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page under docs/ to what stands above it."""
    return with_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def made_pages() -> dict[str, str]:
    """Name and content of every page that is made."""
    pages = {
        page: with_links((ROOT / name).read_text(encoding="utf-8"), name, page)
        for name, page in MOVED.items()
        if (ROOT / name).is_file()
    }
    pages["reference/cli.md"] = command_line()
    pages[EXAMPLES] = example_recipes()
    pages["reference/handscroll.md"] = "# handscroll\n\n::: handscroll\n"
    for room in ROOMS:
        pages[f"reference/{room}.md"] = f"# handscroll.{room}\n\n::: handscroll.{room}\n"
    return pages


def with_links(text: str, source: str, page: str) -> str:
    """The text of the repository's file `source` with relative links that hold on the site's `page`."""

    def turned(link: re.Match[str]) -> str:
        target = (ROOT / source).parent.joinpath(link[1]).resolve()
        if not target.is_relative_to(ROOT):
            return link[0]
        where = target.relative_to(ROOT).as_posix()
        anchor = link[2]
        if where.startswith("examples/"):
            where, anchor = EXAMPLES, "#" + where.removeprefix("examples/").replace(".", "")
        elif where in MOVED:
            where = MOVED[where]
        elif where.startswith("docs/"):
            where = where.removeprefix("docs/")
        else:
            return link[0]  # mkdocs says that it leads nowhere
        up = "../" * page.count("/")
        return f"]({up}{where}{anchor})"

    pieces = re.split(f"({FENCED.pattern})", text, flags=FENCED.flags)
    return "".join(piece if piece.startswith("```") else LINK.sub(turned, piece) for piece in pieces)


def command_line() -> str:
    """Every verb under its own heading, as `--help` shows it."""
    parts = ["# Command line\n\nWhat `handscroll COMMAND --help` prints, for every command.\n"]
    for words, text in helps():
        parts.append(f"## {' '.join(words)}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def helps() -> Iterator[tuple[list[str], str]]:
    """The words of each command, groups before those within them, and its help."""
    import typer

    from handscroll.cli import app

    def walk(command: Any, words: list[str], parent: Any) -> Iterator[tuple[list[str], str]]:
        with command.context_class(command, info_name=words[-1], parent=parent, terminal_width=100) as context:
            yield words, context.get_help()
            for name, inner in getattr(command, "commands", {}).items():
                yield from walk(inner, [*words, name], context)

    yield from walk(typer.main.get_command(app), ["handscroll"], None)


def example_recipes() -> str:
    parts = ["# Example recipes\n\nThe files of `examples/`, to run as they are or to copy.\n"]
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        parts.append(f"## {path.name}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n")
    return "\n".join(parts)
