"""`handscroll data`: text to train and measure on, made and looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.commands import DottedCommand, comma_list, dotted
from handscroll.cli.data_view import print_rows, summary
from handscroll.cli.display import console, follow, print_json, showing
from handscroll.recipes.events import Advance

if TYPE_CHECKING:
    from handscroll.recipes.inspection import Hiding
    from handscroll.text import Tokenizer

app = typer.Typer(help="Make text to train and measure on, and look at it.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make text to train and measure on, and look at it."""


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
    count: Annotated[int, typer.Option(help="Rows to write, each with a context of its own.")] = 100,
    questions: Annotated[int, typer.Option(help="Asked about each context, one turn after the other.")] = 1,
    language: Annotated[str, typer.Option(help="en, zh, or both in turn.")] = "en,zh",
    seed: Annotated[int, typer.Option(help="The same seed gives the same file, byte for byte.")] = 0,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of a tokenizer, or of a model, that --tokens is counted with.", show_default=False),
    ] = None,
    restated: Annotated[
        bool,
        typer.Option("--restated", help="Answer in sentences that say what was asked for: small models need them."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON, and only that.")] = False,
) -> None:
    """Write long contexts with questions and their right answers as chats, for `handscroll train` to learn from.

    People of the chronicle that are asked about are others than those of measurements.

    Examples:

    \b
      handscroll data tasks --task kv --tokens 4096 --count 100 --out kv.jsonl
      handscroll data tasks --task kv --task.form=sentence --task.keys=words --restated --out kv.jsonl
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
        task,
        tokens=tokens,
        count=count,
        languages=languages,
        seed=seed,
        measure=measure,
        options=dotted(ctx, "task"),
        questions=questions,
        restated=restated,
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


@app.command("inspect", cls=DottedCommand)
def inspect(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="txt, md, jsonl, json, csv and parquet files, with or without .gz, and folders of them.",
            metavar="FILE...",
        ),
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a model, or of a tokenizer: rows are shown and counted as that model sees them.",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="causal_lm, sft or another objective of a recipe: what of a row is learnt, or hidden and to be told, "
            "and which rows are refused. Its options follow with a dot. Without --tokenizer one is learnt from the "
            "files. By itself: texts whole, of chats and completions the answers, and pairs of answers are shown.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="How many rows are shown, from the first on.")] = 3,
    seed: Annotated[int, typer.Option(help="What an objective hides is drawn from it.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count and name bad rows and go on, where the first one is an error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows and counts as JSON, and only that.")] = False,
) -> None:
    """Show rows as a model sees them, with what of them is learnt, and count all of them.

    What a row is, its columns say: text; messages; prompt and completion; prompt, chosen and rejected;
    instruction, input and output (Alpaca); conversations (ShareGPT). The chat template is applied and control tokens
    are visible. What is learnt is coloured on a terminal, and stands in ⟦ ⟧ elsewhere; behind → what is hidden there,
    and its level where an objective has several.

    Examples:

    \b
      handscroll data inspect chats.jsonl --tokenizer quickstart/model
      handscroll data inspect books/ --tokenizer quickstart/model --objective causal_lm --rows 1
      handscroll data inspect crawl.jsonl.gz --skip-bad --json
    """
    if rows < 0:
        raise ValueError(f"--rows {rows}: it must be at least 0")
    people = console(as_json)
    from handscroll.recipes.inspection import inspect as run
    from handscroll.text import Corpus, Skipped, Tokenizer

    loaded = Tokenizer.load(tokenizer) if tokenizer is not None else None
    options, hiding = dotted(ctx, "objective"), None
    if objective is not None:
        loaded, hiding = looked_through(objective, options, files, loaded, str(tokenizer), seed)
    elif options:
        raise ValueError(f"--objective.{next(iter(options))} is an option of an objective: give --objective, too")
    finished = follow(people, run(Corpus(files, Skipped() if skip_bad else None), loaded, objective, rows, hiding))
    assert finished is not None
    if as_json:
        print_json(finished.result)
        return
    print_rows(people, finished.result["shown"])
    people.print(summary(finished.result))


def looked_through(
    name: str, options: Mapping[str, Any], files: Sequence[Path], tokenizer: Tokenizer | None, place: str, seed: int
) -> tuple[Tokenizer, Hiding | None]:
    """The tokenizer, learnt from the files where there is none, and the objective where it hides tokens."""
    from handscroll.recipes.inspection import Hiding
    from handscroll.recipes.reading import read_objective
    from handscroll.recipes.schema import Data, NewTokenizer
    from handscroll.recipes.vocabulary import learn_tokenizer, make_finder, make_objective

    section = read_objective(name, options)
    if tokenizer is None:
        tokenizer = learn_tokenizer(NewTokenizer(), Data(files=tuple(map(str, files)), skip_bad=True), name)
    objective = make_objective(section, tokenizer, place)
    return tokenizer, Hiding(objective, seed, make_finder(section)) if objective.needs.roles else None
