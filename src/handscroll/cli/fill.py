"""`handscroll fill`: what a masked language model takes for hidden."""

from __future__ import annotations

from typing import Annotated

import typer

from handscroll.cli.commands import Device, Dtype, ModelName
from handscroll.cli.display import console, print_json, print_table


def fill(
    model: ModelName,
    text: Annotated[str, typer.Argument(help="The text, with [MASK] (or the model's own mask) for each hidden token.")],
    top: Annotated[int, typer.Option(help="How many tokens are told for each mask.")] = 5,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and only that, on stdout.")
    ] = False,
) -> None:
    """Fill in what is masked in a text, with a masked language model such as BERT.

    Each mask is guessed with the others still hidden. The text with the best guesses is printed first.

    Examples:

    \b
      handscroll fill google-bert/bert-base-uncased "Paris is the [MASK] of France."
      handscroll fill google-bert/bert-base-chinese "今天天气很[MASK]。" --top 3 --json
    """
    import handscroll
    from handscroll.measure.table import Table
    from handscroll.recipes.fill import fill as run
    from handscroll.recipes.fill import filled

    loaded = handscroll.load(model, dtype=dtype, device=device)
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
