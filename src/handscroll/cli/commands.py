"""What all verbs share: a mistake is one line on stderr and an exit code; options with a dot reach what they name.

handscroll generate MODEL PROMPT --cache sliding_window --cache.window=256
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from handscroll.recipes.events import Advice

FAILED, USER_MISTAKE, INTERRUPTED = 1, 2, 130
# What a user can put right. Running out of memory is among them: the way out is another setting.
MISTAKES = (
    ValueError,
    MemoryError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# What the same command needs besides, to go on where a run was stopped.
RESUMABLE = dict.fromkeys(("quickstart", "train", "extend", "read"), " with --resume") | {"eval": "", "compare": ""}
# What a verb may tell of one call, in the context's meta: the options with a dot; whether it can be gone on with.
DOTTED, CAN_RESUME = "handscroll.dotted", "handscroll.can_resume"


# What every verb takes that loads a model.
ModelName = Annotated[str, typer.Argument(help="Folder of a model, or a hub id (org/name).")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Of the weights: float32, bfloat16, float16, or auto, which is float32 on a CPU and as in the file on a "
        "GPU."
    ),
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, or auto, a GPU where there is one.")]
# Of verbs that talk.
CacheName = Annotated[
    str | None,
    typer.Option(
        help="The way of remembering: full, sliding_window, attention_sinks or block_memory, which is the default but "
        "for models that it can't serve. Its options follow with a dot, such as --cache.window=256.",
        show_default=False,
    ),
]


class Commands(TyperGroup):
    """The verbs, with what happens when one of them fails."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own context, whatever it wraps
        try:
            with advice_in_one_line():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            besides = RESUMABLE.get(ctx.invoked_subcommand or "") if ctx.meta.get(CAN_RESUME, True) else None
            _say("interrupted" if besides is None else f"interrupted; the same command{besides} goes on")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of our output, such as `head`, has seen enough: typer ends quietly
        except (*MISTAKES, OSError) as error:
            if ctx.params.get("debug"):
                raise
            _say(_in_words(error))
            raise typer.Exit(USER_MISTAKE if isinstance(error, MISTAKES) else FAILED) from None


@contextmanager
def advice_in_one_line() -> Iterator[None]:
    """What a recipe advises goes to stderr as any other line of ours, without a place in the code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=Advice)
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *args: Any, **options: Any) -> None:
            if issubclass(category, Advice):
                _say(f"note: {message}")
            else:
                show(message, category, *args, **options)

        warnings.showwarning = say
        yield


class DottedCommand(TyperCommand):
    """A verb that takes `--NAME.KEY=VALUE` or `--NAME.KEY VALUE`; `dotted` gives what came."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = []
        found: dict[str, str] = {}
        words = iter(args)
        for word in words:
            name, sign, value = word.partition("=")
            if word == "--":
                rest.extend([word, *words])
            elif name.startswith("--") and "." in name:
                found[name[2:]] = value if sign else next(words, "")
            else:
                rest.append(word)
        ctx.meta[DOTTED] = found
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, options, and under their own headings the options that have one."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if param.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def dotted(ctx: typer.Context, name: str) -> dict[str, Any]:
    """The options `--NAME.KEY=VALUE` as {key: value}, values read as YAML. ValueError for one of another name."""
    from handscroll.recipes.values import parse_value

    options: dict[str, Any] = {}
    for option, text in ctx.meta.get(DOTTED, {}).items():
        before, _, key = option.partition(".")
        if before != name:
            near = difflib.get_close_matches(before, [name], 1)
            hint = f"did you mean --{name}.{key}?" if near else f"options with a dot begin with --{name}."
            raise ValueError(f"there is no option --{option}; {hint}")
        if not text:
            raise ValueError(f"--{option} needs a value: --{option}=VALUE")
        options[key] = parse_value(text)
    return options


def comma_list(text: str) -> tuple[str, ...]:
    """ "en,zh" as ("en", "zh")."""
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def _say(words: str) -> None:
    typer.echo(f"handscroll: {words}", err=True)


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
