"""`handscroll data`: text to train and measure on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from handscroll.cli.commands import DottedCommand, comma_list, dotted
from handscroll.cli.display import console, print_json, showing
from handscroll.recipes.events import Advance

app = typer.Typer(help="Make text to train and measure on.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make text to train and measure on."""


@app.command("chronicle")
def chronicle(
    tokens: Annotated[
        int,
        typer.Option(help="Length of the text, in tokens: of --tokenizer, or else estimated from the characters."),
    ] = 131072,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files, byte for byte.")] = 0,
    language: Annotated[str, typer.Option(help="en, zh, or both, mixed in equal shares.")] = "en,zh",
    out: Annotated[Path, typer.Option(help="Folder that the files are written to.")] = Path("chronicle"),
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of a tokenizer, or of a model, that --tokens is counted with.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON, and only that.")] = False,
) -> None:
    """Write a synthetic world of any length, with exact answers to every question about it.

    People, places, trades, years, teachers and events, in English and Chinese. Since every fact is known, it can be
    measured what a model remembers of a long text.

    It writes text.txt; questions.jsonl (with the answers, and the characters at which the fact stands); triples.jsonl;
    chats.jsonl and preferences.jsonl, to train on, about other people than those of the text.

    Examples:

    \b
      handscroll data chronicle --tokens 1000000 --seed 7 --out world
      handscroll data chronicle --language zh --tokenizer quickstart/model
    """
    if tokens < 1:
        raise ValueError(f"--tokens {tokens}: it must be at least 1")
    people = console(as_json)
    from handscroll.recipes.output import check_writable
    from handscroll.text import Tokenizer
    from handscroll.text.chronicle import estimate_tokens, export

    check_writable(out)
    loaded = Tokenizer.load(tokenizer) if tokenizer is not None else None
    with showing(people) as display:
        counted = 0

        def measure(text: str) -> int:
            nonlocal counted
            count = estimate_tokens(text) if loaded is None else len(loaded.encode(text))
            counted += count
            display.advance(Advance("writing", min(counted, tokens), tokens))
            return count

        document = export(out, seed=seed, languages=comma_list(language), size=tokens, measure=measure)
    if as_json:
        print_json(
            {
                "out": str(out),
                "tokens": document.tokens,
                "characters": len(document.text),
                "facts": len(document.facts),
                "languages": list(document.languages),
                "seed": seed,
            }
        )
        return
    people.print(
        f"{out}: {document.tokens:,} tokens, {len(document.text):,} characters, {len(document.facts):,} facts "
        "in text.txt; questions.jsonl, triples.jsonl, chats.jsonl and preferences.jsonl beside it"
    )


@app.command("tasks", cls=DottedCommand)
def tasks(
    ctx: typer.Context,
    task: Annotated[
        str,
        typer.Option(
            help="passkey, number, kv, needle, variable_tracing, common_words, frequent_words, chronicle, "
            "lost_in_the_middle, qa, or a task of RULER by its name there, such as niah_multikey_2. "
            "Options follow with a dot, such as --task.keys=words."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The jsonl file that is written.")],
    tokens: Annotated[
        int,
        typer.Option(
            help="Length of each context: of --tokenizer's tokens, or else estimated, a token for four Latin "
            "characters or one Chinese."
        ),
    ] = 4096,
    count: Annotated[int, typer.Option(help="Rows to write: one context and one question each.")] = 100,
    language: Annotated[str, typer.Option(help="en, zh, or both in turn.")] = "en,zh",
    seed: Annotated[int, typer.Option(help="The same seed gives the same file, byte for byte.")] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of a tokenizer, or of a model, that --tokens is counted with.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON, and only that.")] = False,
) -> None:
    """Write long contexts with questions and their right answers as chats, for `handscroll train` to learn from.

    People of the chronicle that are asked about are others than those of measurements.

    Examples:

    \b
      handscroll data tasks --task kv --tokens 4096 --count 100 --out kv.jsonl
      handscroll data tasks --task chronicle --task.kind=two_hops --language zh --out hops.jsonl
      handscroll data tasks --task niah_single_2 --task.haystack_files=book.txt --language en --out needles.jsonl
    """
    if count < 1:
        raise ValueError(f"--count {count}: it must be at least 1")
    people = console(as_json)
    from handscroll.recipes.output import check_writable
    from handscroll.text import Tokenizer
    from handscroll.text.chronicle import estimate_tokens
    from handscroll.text.tasks.export import chat_rows, write_rows

    check_writable(out.parent)
    loaded = Tokenizer.load(tokenizer) if tokenizer is not None else None

    def measure(text: str) -> int:
        return estimate_tokens(text) if loaded is None else len(loaded.encode(text))

    languages = comma_list(language)
    rows = chat_rows(
        task, tokens=tokens, count=count, languages=languages, seed=seed, measure=measure, options=dotted(ctx, "task")
    )
    with showing(people) as display:

        def counted() -> Iterator[dict[str, Any]]:
            for number, row in enumerate(rows, 1):
                display.advance(Advance("writing", number, count, "rows"))
                yield row

        write_rows(out, counted())
    if as_json:
        print_json({"out": str(out), "task": task, "rows": count, "tokens": tokens, "languages": list(languages)})
        return
    people.print(f"{out}: {count:,} rows of {task}, each with a context of up to {tokens:,} tokens")
