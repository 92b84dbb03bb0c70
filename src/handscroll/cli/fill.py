"""`handscroll fill`: what a model takes for hidden in a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from handscroll.cli.commands import Device, Dtype, ModelName
from handscroll.cli.display import console, print_json, print_table

if TYPE_CHECKING:
    from handscroll.recipes.folders import Loaded


def fill(
    model: ModelName,
    text: Annotated[
        str, typer.Argument(help="The text, with [MASK] (or the model's own mask) for each hidden token, or blank.")
    ],
    top: Annotated[
        int | None,
        typer.Option(help="How many tokens a masked LM tells for each mask; default: 5.", show_default=False),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(help="Of a GLM: how many attempts at a blank are followed; default: 1.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Of a GLM: the most tokens of a blank; default: 32.", show_default=False)
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and only that, on stdout.")
    ] = False,
) -> None:
    """Fill in what is masked in a text, with a masked language model such as BERT, or a GLM.

    A masked language model guesses one token for each mask, with the others still hidden; the text with the best
    guesses is printed first. A GLM fills each blank with as many tokens as belong there, the first blank first.

    Examples:

    \b
      handscroll fill google-bert/bert-base-uncased "Paris is the [MASK] of France."
      handscroll fill google-bert/bert-base-chinese "今天天气很[MASK]。" --top 3 --json
      handscroll fill runs/glm/model "Anna Berg lives in [MASK]." --beams 4
    """
    import handscroll
    from handscroll.recipes.blanks import fills_blanks

    loaded = handscroll.load(model, dtype=dtype, device=device)
    fills = fills_blanks(loaded.model)
    for option, value, is_known in (
        ("--top", top, not fills),
        ("--beams", beams, fills),
        ("--max-new-tokens", max_new_tokens, fills),
    ):
        if value is not None and not is_known:
            known = "a GLM, and takes --beams and --max-new-tokens" if fills else "a masked LM, and takes --top"
            raise ValueError(f"{option} {value} says nothing to this model: it is {known}")
    if fills:
        _fill_blanks(loaded, text, beams or 1, 32 if max_new_tokens is None else max_new_tokens, as_json)
    else:
        _guess(loaded, text, 5 if top is None else top, as_json)


def _guess(loaded: Loaded, text: str, top: int, as_json: bool) -> None:
    from handscroll.measure.table import Table
    from handscroll.recipes.fill import fill as run
    from handscroll.recipes.fill import filled

    guesses = run(loaded.model, loaded.tokenizer, text, top)
    whole = filled(loaded.tokenizer, text, guesses)
    if as_json:
        print_json({"text": text, "filled": whole, "masks": [[each._asdict() for each in best] for best in guesses]})
        return
    people = console()
    people.print(whole)
    for number, best in enumerate(guesses, 1):
        rows = tuple((each.text, each.probability) for each in best)
        print_table(people, Table(f"Mask {number}", ("token", "probability"), rows, frozenset({"probability"})))


def _fill_blanks(loaded: Loaded, text: str, beams: int, max_new_tokens: int, as_json: bool) -> None:
    from handscroll.recipes.blanks import fill_blanks, joined

    found = fill_blanks(loaded.model, loaded.tokenizer, text, beams=beams, max_new_tokens=max_new_tokens)
    whole = joined(loaded.tokenizer, text, found)
    if as_json:
        print_json({"text": text, "filled": whole, "blanks": [each._asdict() for each in found]})
        return
    people = console()
    people.print(whole)
    for number, each in enumerate(found, 1):
        if not each.is_whole:
            people.print(f"blank {number} was cut off after {len(each.tokens)} tokens: --max-new-tokens allows more")
