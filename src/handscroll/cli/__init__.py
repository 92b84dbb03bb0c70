"""The command line: verbs that parse, validate and print; the work is done by recipes.

- `commands.py` what all verbs share: mistakes in one line, exit codes, options with a dot
- `decoding.py` the options of verbs that generate
- `display.py` bars on a terminal, sparse lines elsewhere, JSON for scripts
- one file a verb: `quickstart.py`, `data.py`, `tokenizer.py`, `train.py`, `compare.py`, `extend.py`, `convert.py`,
  `inspect.py`, `generate.py`, `chat.py`, `read.py`, `ask.py`, `embed.py`, `fill.py`, `evaluate.py`

What it promises: results on stdout, and with `--json` nothing else there. Exit codes: 0 done, 1 failed while running,
2 a mistake of the user's (one line, no traceback), 130 interrupted. `--help` answers at once: what a verb needs is
imported when it runs.

To add a verb: write a file with one function whose docstring is its help and whose options say their default and unit,
register it below, and add it to the README's list.
"""

from __future__ import annotations

from typing import Annotated

import typer

from handscroll.cli import data, tokenizer
from handscroll.cli.ask import ask
from handscroll.cli.chat import chat
from handscroll.cli.commands import Commands, DottedCommand
from handscroll.cli.compare import compare
from handscroll.cli.convert import convert
from handscroll.cli.embed import embed
from handscroll.cli.evaluate import evaluate
from handscroll.cli.extend import extend
from handscroll.cli.fill import fill
from handscroll.cli.generate import generate
from handscroll.cli.inspect import inspect
from handscroll.cli.processes import leaving_at_once
from handscroll.cli.quickstart import QuickstartCommand, quickstart
from handscroll.cli.read import read
from handscroll.cli.train import train

HELP = """
Handscroll trains language models and lets them read far past the window they were trained on.

Begin with the quickstart: it trains a small model and shows, on one page, what every way of remembering is worth.

Every command explains itself: handscroll COMMAND --help
"""

app = typer.Typer(
    name="handscroll",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain text: it is wrapped as it should be, copied without frames, and shown in half the time.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart", cls=QuickstartCommand, short_help="Train a small model and see how far it reads.")(quickstart)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")
app.command("train", short_help="Run a training recipe.")(train)
app.command("compare", short_help="Train variants of a recipe side by side.")(compare)
app.command("extend", cls=DottedCommand, short_help="Give a model a longer window.")(extend)
app.command("convert", short_help="Let a model's heads share keys and values.")(convert)
app.command("inspect", cls=DottedCommand, short_help="Show what a model is made of and needs.")(inspect)
app.command("generate", cls=DottedCommand, short_help="Continue a text, or answer a message.")(generate)
app.command("chat", cls=DottedCommand, short_help="Talk with a model, also about a document.")(chat)
app.command("read", cls=DottedCommand, short_help="Read a text once and save the memory of it.")(read)
app.command("ask", cls=DottedCommand, short_help="Answer questions about a text, or about a saved memory.")(ask)
app.command("embed", short_help="Turn texts into vectors, and compare them.")(embed)
app.command("fill", short_help="Fill in what is masked in a text.")(fill)
app.command("eval", cls=DottedCommand, short_help="Compare ways of remembering on a model.")(evaluate)


def _print_version(wanted: bool) -> None:
    if wanted:
        # Reading a package's metadata takes a while: only here.
        from importlib.metadata import version

        typer.echo(f"handscroll {version('handscroll')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="HANDSCROLL_DEBUG", help="Show the traceback of a mistake, for reporting it."),
    ] = False,
) -> None:
    """What every verb takes; `Commands` looks at `debug`."""


def main() -> None:
    """The `handscroll` command."""
    with leaving_at_once():
        app()
