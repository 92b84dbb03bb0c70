"""`handscroll eval`: a model under several ways of remembering, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.commands import comma_list, dotted
from handscroll.cli.display import console, print_json, print_table, showing
from handscroll.recipes.events import Advance

if TYPE_CHECKING:
    from handscroll.measure.suites import SuiteStep


def evaluate(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Folder of a model, or a hub id (org/name).")],
    suite: Annotated[
        str,
        typer.Option(
            help="What to measure: recall (questions about a synthetic text) or perplexity (how well each token is "
            "predicted). Further options of a suite follow with a dot, such as --suite.questions=50."
        ),
    ] = "recall",
    policies: Annotated[
        str,
        typer.Option(
            help="Ways of remembering, separated by commas; with options as a YAML list: "
            '"[full, {policy: block_memory, blocks: 8}]".'
        ),
    ] = "full,sliding_window,block_memory",
    tokens: Annotated[
        int, typer.Option(help="Length of the text that is read, in tokens. The policy full stops at 8,192.")
    ] = 8192,
    seed: Annotated[int, typer.Option(help="Of the synthetic text and the questions.")] = 0,
    language: Annotated[str, typer.Option(help="en, zh, or both.")] = "en,zh",
    out: Annotated[
        Path | None, typer.Option(help="A file that the table is written to as JSON.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON, and only that, on stdout.")] = False,
) -> None:
    """Measure a model under several ways of remembering, side by side.

    Examples:

    \b
      handscroll eval quickstart/model --suite recall --tokens 131072
      handscroll eval quickstart/model --policies full,block_memory --language zh --json
      handscroll eval quickstart/model --suite perplexity --out perplexity.json
    """
    options = {"tokens": tokens, "seed": seed, "languages": comma_list(language), **dotted(ctx, "suite")}
    people = console(as_json)
    from handscroll.recipes.output import check_writable

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder: give the name of a file")
        check_writable(out.absolute().parent)
    import handscroll
    from handscroll.measure.suites import Subject, find_suite
    from handscroll.measure.table import Table

    found = find_suite(suite)
    made = _policies(policies)
    table: Table | None = None
    with showing(people) as display:
        for step in found.steps(Subject(*handscroll.load(model)), made, **options):
            if isinstance(step, Table):
                table = step
            else:
                display.advance(_event(step))
    assert table is not None
    result = {"model": model, "suite": suite, **options, "title": table.title, "rows": table.records()}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        print_table(people, table)


def _policies(text: str) -> list[Any]:
    """Made at once, so that a mistyped one is known before a model is read."""
    from handscroll.kvcache import make_policy
    from handscroll.recipes.values import parse_value

    names = parse_value(text) if text.lstrip().startswith(("[", "{")) else comma_list(text)
    return [make_policy(name) for name in (names if isinstance(names, list | tuple) else [names])]


def _event(step: SuiteStep) -> Advance:
    from handscroll.measure import AskStep

    if isinstance(step.step, AskStep):
        return Advance(f"{step.policy}: asking", step.step.asked, step.step.total, "questions")
    return Advance(f"{step.policy}: reading", step.step.tokens, step.step.total, "tokens", step.step.tokens_per_second)
