"""Options of the verbs that generate: how tokens are drawn, what is avoided, where a text ends, how often it is tried.

A verb lists those that it takes, under the names of `recipes/decoding.py`; `decoding_options` collects what came.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

DRAWING, AVOIDING = "How tokens are drawn", "Against repetition"
ENDING, ATTEMPTS = "Where it ends, and what is told", "Several attempts"

MaxNewTokens = Annotated[int, typer.Option(help="Where to stop at the latest, in tokens.", rich_help_panel=ENDING)]
Temperature = Annotated[
    float,
    typer.Option(
        help="0 takes the likeliest token each time; around 1, tokens are drawn as likely as they are.",
        rich_help_panel=DRAWING,
    ),
]
DrawingSeed = Annotated[int, typer.Option(help="Of drawing at a temperature above 0.", rich_help_panel=DRAWING)]
TopK = Annotated[
    int, typer.Option(help="Draw from the so many likeliest tokens only; 0: from all.", rich_help_panel=DRAWING)
]
TopP = Annotated[
    float,
    typer.Option(
        help="Draw from the likeliest tokens that hold this probability together; 1: from all.",
        rich_help_panel=DRAWING,
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        help="Leave out tokens that are less likely than this share of the likeliest one; 0: none.",
        rich_help_panel=DRAWING,
    ),
]
Typical = Annotated[
    float,
    typer.Option(
        help="Draw from the tokens whose surprise is nearest to the expected one, up to this probability; 1: from all.",
        rich_help_panel=DRAWING,
    ),
]
LogitBias = Annotated[
    list[str] | None,
    typer.Option(
        help="Add to the logit of a token, by its id; -inf forbids it. May be repeated.",
        metavar="ID=VALUE",
        show_default=False,
        rich_help_panel=DRAWING,
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        help="Above 1, tokens of the text so far, the prompt's too, become less likely.", rich_help_panel=AVOIDING
    ),
]
PresencePenalty = Annotated[
    float,
    typer.Option(
        help="What the logit of a token loses once it was generated; 0 to 2 is usual.", rich_help_panel=AVOIDING
    ),
]
FrequencyPenalty = Annotated[
    float, typer.Option(help="What it loses each time that it was generated.", rich_help_panel=AVOIDING)
]
NoRepeatNgram = Annotated[
    int,
    typer.Option(
        help="Never say so many tokens in a row twice, nor any of the prompt; 0: allowed.", rich_help_panel=AVOIDING
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        help="End before this text. May be repeated; the name of a control token means that token.",
        metavar="STRING",
        show_default=False,
        rich_help_panel=ENDING,
    ),
]
StopId = Annotated[
    list[int] | None,
    typer.Option(
        help="End at this token, besides those that the model ends at. May be repeated.",
        metavar="ID",
        show_default=False,
        rich_help_panel=ENDING,
    ),
]
LogProbs = Annotated[
    int | None,
    typer.Option(
        help="With --json, tell the log-probability of every token, and of so many likeliest ones in its place.",
        metavar="N",
        show_default=False,
        rich_help_panel=ENDING,
    ),
]
Beams = Annotated[
    int, typer.Option(help="Beam search: so many continuations are followed at a time.", rich_help_panel=ATTEMPTS)
]
LengthPenalty = Annotated[
    float,
    typer.Option(
        help="Of beam search: log-probabilities are divided by the length to this power; above 0 favours long texts.",
        rich_help_panel=ATTEMPTS,
    ),
]
EarlyStopping = Annotated[
    str,
    typer.Option(
        help="When beam search ends: yes, once as many texts ended as there are beams; no, once the best that goes on "
        "isn't better than these; never, once it couldn't become better.",
        metavar="no|yes|never",
        rich_help_panel=ATTEMPTS,
    ),
]
BestOf = Annotated[
    int,
    typer.Option(
        help="Draw so many texts, from seeds that follow each other, and give the one of the likeliest tokens.",
        rich_help_panel=ATTEMPTS,
    ),
]

PLAIN = (
    "max_new_tokens temperature seed top_k top_p min_p typical repetition_penalty presence_penalty frequency_penalty "
    "no_repeat_ngram logprobs beams length_penalty best_of"
).split()
EARLY_STOPPING: dict[str, Any] = {"no": False, "yes": True, "never": "never"}


def decoding_options(ctx: typer.Context) -> dict[str, Any]:
    """What a verb was given, as `recipes/decoding.py` names it; `stop_id` stays the verb's.

    ValueError for what can't be read.
    """
    given = ctx.params
    options = {name: given[name] for name in PLAIN if name in given}
    if given.get("stop"):
        options["stop"] = given["stop"]
    if given.get("logit_bias"):
        options["logit_bias"] = dict(_bias(text) for text in given["logit_bias"])
    if (early := given.get("early_stopping", "no")) != "no":
        if early not in EARLY_STOPPING:
            raise ValueError(f"--early-stopping {early}: known are {', '.join(EARLY_STOPPING)}")
        options["early_stopping"] = EARLY_STOPPING[early]
    return options


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise ValueError(f"--logit-bias {text}: give a token's id and a number, such as 42=-5 or 42=-inf") from None
