"""`handscroll tokenizer`: vocabularies, learnt, looked at and compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.display import console, has_colours, print_json, print_table, showing
from handscroll.recipes.events import Advance

if TYPE_CHECKING:
    from rich.text import Text

    from handscroll.text import Tokenizer
    from handscroll.text.pieces import Piece

HELP = "Learn a vocabulary; look at tokens; compare tokenizers."
COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
SEPARATOR, LINE_END = "|", "\u23ce"

app = typer.Typer(help=HELP, no_args_is_help=True)
Folder = Annotated[str, typer.Argument(help="Folder of a tokenizer or a model, or a hub id (org/name).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and only that.")]


@app.callback()
def group() -> None:
    """Learn a vocabulary; look at tokens; compare tokenizers."""


@app.command("train")
def train(
    files: Annotated[
        list[Path], typer.Argument(help="The text: txt, md or jsonl, or folders of such.", metavar="FILE...")
    ],
    out: Annotated[Path, typer.Option(help="Folder that the tokenizer goes to.")] = Path("tokenizer"),
    vocab_size: Annotated[
        int, typer.Option(help="Entries, at most: fewer where the text holds too few pairs to join.")
    ] = 8192,
    kind: Annotated[
        str,
        typer.Option(
            help="bpe: byte-level BPE, gives every text back as it was. wordpiece: as BERT's; it does not: white space "
            "becomes single spaces, and characters that the text doesn't hold become unknown."
        ),
    ] = "bpe",
    han: Annotated[
        str | None,
        typer.Option(
            help="Han characters. merged: joined with their neighbours (bpe's default). isolated: each for itself "
            "(wordpiece's only way). jieba: joined within Chinese words only, while the vocabulary is learnt.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference",
            help="Learn with the readable algorithm instead of the tokenizers library: the same BPE, about 40 times "
            "slower; and WordPiece by gain of likelihood, where the library joins the most frequent pair.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn a vocabulary from text, and write a folder that `transformers` reads, too.

    Examples:

    \b
      handscroll tokenizer train novel.txt --vocab-size 16000 --out novel-tokenizer
      handscroll tokenizer train books --han jieba --out words
      handscroll tokenizer train poem.txt --kind wordpiece --vocab-size 2000 --reference
    """
    people = console(as_json)
    from handscroll.recipes.output import check_writable
    from handscroll.text import Tokenizer, read_texts
    from handscroll.text.learning import scheme
    from handscroll.text.reference import training

    scheme(kind, han, vocab_size, ())
    check_writable(out)
    texts = read_texts(files)
    options: dict[str, Any] = {"kind": kind, "han": han}
    start = time.perf_counter()
    if reference:
        steps = training.train(texts, vocab_size, **options)
        with showing(people) as display:
            while True:
                try:
                    entries = next(steps)
                except StopIteration as end:
                    tokenizer = end.value
                    break
                display.advance(Advance("joining", entries, vocab_size, "entries"))
    else:
        tokenizer = Tokenizer.train(texts, vocab_size, **options, progress=people.is_terminal)
    seconds = time.perf_counter() - start
    tokenizer.save(out)
    if as_json:
        result = {"out": str(out), "kind": kind, "entries": tokenizer.vocab_size, "reference": reference}
        print_json({**result, "characters": sum(map(len, texts)), "seconds": round(seconds, 3)})
        return
    people.print(f"{out}: {tokenizer.vocab_size:,} entries, {tokenizer.backend.kind}, learnt in {seconds:.1f} s")


@app.command("encode")
def encode(
    tokenizer: Folder,
    text: Annotated[str | None, typer.Argument(help="The text; or give --file.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option(help="A file with the text.", show_default=False)] = None,
    special: Annotated[
        bool, typer.Option("--special", help="Obey the names of control tokens in the text; else they are characters.")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Show ids instead of what the tokens look like.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a text as its tokens: in colour on a terminal, with | between them elsewhere.

    A token that is only a part of a character is shown as its bytes, <E9 BE>.

    \b
      handscroll tokenizer encode quickstart/model "Where was Karen born? 请问王伟住在哪里？"
    """
    if (text is None) == (file is None):
        raise ValueError("give either a text or --file FILE")
    people = console(as_json)
    from handscroll.text import read_texts
    from handscroll.text.pieces import pieces

    loaded = _load(tokenizer)
    whole = text if text is not None else "\n".join(read_texts([file] if file is not None else []))
    found = pieces(loaded, whole, special=special)
    size = len(whole.encode("utf-8", "replace"))
    is_exact = loaded.decode([piece.id for piece in found]) == whole
    if as_json:
        tokens = [{"id": piece.id, "text": piece.text, "start": piece.start, "end": piece.end} for piece in found]
        print_json({"tokens": tokens, "bytes": size, "gives_the_text_back": is_exact})
        return
    people.print(" ".join(str(piece.id) for piece in found) if ids else _shown(found, has_colours(people)))
    rate = f", {size / len(found):.2f} bytes per token" if found else ""
    lost = "" if is_exact else "; decoding them does not give the text back"
    people.print(f"{len(found):,} tokens, {len(whole):,} characters{rate}{lost}", style="dim")


@app.command("inspect")
def inspect(tokenizer: Folder, as_json: AsJson = False) -> None:
    """Show what a tokenizer is: its scheme, its control tokens, and what its entries are made of.

    \b
      handscroll tokenizer inspect quickstart/model
    """
    people = console(as_json)
    from handscroll.measure.tokenization import describe

    told = describe(_load(tokenizer))
    if as_json:
        print_json(told)
        return
    control = told.pop("control_tokens")
    for name, value in told.items():
        if name == "made_of":
            value = ", ".join(f"{count:,} {what}" for what, count in value.items())
        elif name == "longest":
            value = " ".join(map(repr, value))
        people.print(f"{name.replace('_', ' '):18} {value}")
    people.print(f"{'control tokens':18} " + ", ".join(f"{name} {id_}" for name, id_ in control.items()))


@app.command("compare")
def compare(
    tokenizers: Annotated[
        list[str], typer.Argument(help="Folders of tokenizers or models, or hub ids.", metavar="TOKENIZER...")
    ],
    corpus: Annotated[list[Path], typer.Option(help="The text; may be given several times.")],
    as_json: AsJson = False,
) -> None:
    """Compare tokenizers on a text: bytes per token, tokens per word and Han character, speed, and what is lost.

    MB/s is that of encoding on one core, in this run: it depends on what else the machine does.

    \b
      handscroll tokenizer compare quickstart/model Qwen/Qwen3-0.6B --corpus novel.txt
    """
    people = console(as_json)
    from handscroll.measure import tokenization
    from handscroll.text import read_texts

    texts = read_texts(corpus)
    loaded = {name: _load(name) for name in tokenizers}
    measured = {}
    with showing(people) as display:
        for done, (name, total) in enumerate(tokenization.compare(loaded, texts), 1):
            measured[name] = total
            display.advance(Advance("encoding", done, len(texts) * len(loaded), "texts"))
    table = tokenization.as_table(measured, {name: len(each.backend.ids) for name, each in loaded.items()})
    if as_json:
        print_json(table.to_json())
        return
    print_table(people, table)


def _load(folder_or_id: str) -> Tokenizer:
    from handscroll.text import Tokenizer

    folder = Path(folder_or_id).expanduser()
    if not folder.exists():
        # Only for the hub: it brings torch, which takes a while.
        from handscroll.model.checkpoint import resolve

        folder = resolve(folder_or_id)
    return Tokenizer.load(folder)


def _shown(found: Sequence[Piece], in_colour: bool) -> Text:
    from rich.text import Text

    shown = Text()
    for place, piece in enumerate(found):
        text = piece.text.replace("\n", f"{LINE_END}\n")
        if in_colour:
            shown.append(text, COLOURS[place % len(COLOURS)])
        else:
            shown.append((SEPARATOR if place else "") + text)
    return shown
