"""`handscroll chat`: a conversation, on a terminal or through pipes.

Knows lines, the screen and Ctrl-C. What a message or a command does stands in `recipes/chat.py` and
`recipes/chat_commands.py`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.commands import MISTAKES, USER_MISTAKE, CacheName, Device, Dtype, ModelName, dotted
from handscroll.cli.decoding import (
    DrawingSeed,
    FrequencyPenalty,
    LogitBias,
    MaxNewTokens,
    MinP,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Stop,
    StopId,
    Temperature,
    TopK,
    TopP,
    Typical,
    decoding_options,
)
from handscroll.cli.display import Display, console, showing

if TYPE_CHECKING:
    from handscroll.recipes.chat import Chat, ChatEvent

QUOTES = '"""'
LEAVING = "Ctrl-C once more leaves, as do Ctrl-D and /quit."
READ_LINE = Callable[[str], str | None]


def chat(
    ctx: typer.Context,
    model: ModelName,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            help="A text that the chat is about, of any length, txt, md or jsonl: read once; may be repeated.",
            show_default=False,
        ),
    ] = None,
    cache: CacheName = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    system: Annotated[str, typer.Option(help="A system message to begin with.", show_default=False)] = "",
    temperature: Temperature = 0.0,
    seed: DrawingSeed = 0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    typical: Typical = 1.0,
    logit_bias: LogitBias = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    presence_penalty: PresencePenalty = 0.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    no_repeat_ngram: NoRepeatNgram = 0,
    max_new_tokens: MaxNewTokens = 512,
    stop: Stop = None,
    stop_id: StopId = None,
) -> None:
    """Talk with a model, about a document of any length if you like.

    What was read is remembered: each turn reads only what is new. /help lists commands. Ctrl-C stops an answer. Through
    a pipe each line is a message or a command, and answers go to stdout, all else to stderr.

    Examples:

    \b
      handscroll chat quickstart/model
      handscroll chat quickstart/model --file book.txt --temperature 0.7 --top-p 0.9
      printf 'Who was the teacher of Anna Berg?\\n/stats\\n' | handscroll chat quickstart/model --file book.txt
    """
    cache_options = dotted(ctx, "cache")
    options = decoding_options(ctx)
    texts = ""
    if file:
        from handscroll.text import read_texts

        texts = "\n".join(read_texts(file))
    import handscroll
    from handscroll.kvcache import usual_policy
    from handscroll.recipes.chat import Chat
    from handscroll.recipes.decoding import make_decoding

    loaded = handscroll.load(model, dtype=dtype, device=device)
    stop_ids = (*loaded.tokenizer.stop_ids, *(stop_id or ()))
    decoding = make_decoding(stop_ids=stop_ids, **options)
    policy = {"policy": cache or usual_policy(loaded.model.config), **cache_options}
    session = Chat(loaded.model, loaded.tokenizer, policy, decoding, system=system, maker=model)
    screen = Screen()
    if file:
        screen.show_all(session.read_document(texts))
        if not session.document:
            raise KeyboardInterrupt  # there is nothing to talk about yet
        screen.notice(f"{len(session.document):,} tokens are remembered")
    if sys.stdin.isatty():
        with suppress(ImportError):  # not on every system; then lines can't be edited, and nothing else changes
            import readline  # noqa: F401
        screen.notice("/help lists commands; Ctrl-C stops an answer, Ctrl-D leaves.")
    _converse(session, _typed if sys.stdin.isatty() else _piped, screen)


def _converse(session: Chat, read_line: READ_LINE, screen: Screen) -> None:
    """Entries until there are no more. Where nobody looks on, a mistake shows in the exit code."""
    from handscroll.recipes.chat_commands import handle

    is_watched, was_wrong, was_interrupted = sys.stdin.isatty(), False, False
    while True:
        try:
            entry = next_entry(read_line)
        except KeyboardInterrupt:
            if was_interrupted:
                break
            was_interrupted = True
            screen.notice("\n" + LEAVING)
            continue
        was_interrupted = False
        if entry is None:
            break
        if not entry.strip():
            continue
        try:
            if screen.show_all(handle(session, entry)):
                break
        except KeyboardInterrupt:
            screen.notice("stopped at once; the next message reads the conversation again")
        except (*MISTAKES, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            was_wrong = True
            screen.notice(f"handscroll: {error}")
    if was_wrong and not is_watched:
        raise typer.Exit(USER_MISTAKE)


def next_entry(read_line: READ_LINE) -> str | None:
    """What is typed next, of one line or several; None at the end. `read_line` is given a prompt."""
    line = read_line("> ")
    if line is None:
        return None
    if line.startswith(QUOTES):
        lines: list[str] = []
        rest: str | None = line[len(QUOTES) :]
        while rest is not None and not rest.endswith(QUOTES):
            lines.append(rest)
            rest = read_line(". ")
        if rest is not None:
            lines.append(rest.removesuffix(QUOTES))
        return "\n".join(lines).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        more = read_line(". ")
        if more is None:
            break
        lines.append(more)
    return "\n".join(lines)


class Screen:
    """Answers on stdout as they come; bars and notices on stderr."""

    def __init__(self) -> None:
        self._people = console(True)
        self._bars = ExitStack()
        self._display: Display | None = None

    def notice(self, text: str) -> None:
        self._people.print(text)

    def show_all(self, events: Iterator[ChatEvent]) -> bool:
        """Shows what happens until it is over or Ctrl-C stops it; whether the reader wants to leave."""
        from handscroll.recipes.chat import Left

        with _interruptible() as asked, self._bars:
            for event in events:
                if isinstance(event, Left):
                    return True
                self._show(event)
                if asked:
                    events.close()  # type: ignore[attr-defined]  # they are generators
                    self._close()
                    _write("\n")
                    self.notice("stopped")
                    break
            self._close()
        return False

    def _show(self, event: ChatEvent) -> None:
        from handscroll.recipes.chat import Answered, Notice
        from handscroll.recipes.events import Advance, Said
        from handscroll.recipes.generate import Token

        if isinstance(event, Advance):
            if self._display is None:
                self._display = self._bars.enter_context(showing(self._people))
            self._display.advance(event)
            return
        self._close()
        if isinstance(event, Token):
            _write(event.text + ("\n" if event.ends else ""))
        elif isinstance(event, Said):
            _write(event.text + "\n")
        elif isinstance(event, Notice):
            self.notice(event.text)
        else:
            assert isinstance(event, Answered)

    def _close(self) -> None:
        """A bar must be gone before text is written to the same terminal."""
        self._bars.close()
        self._display = None


@contextmanager
def _interruptible() -> Iterator[list[Any]]:
    """The first Ctrl-C only fills the list, so that work can stop where that does no harm; a second one raises."""
    asked: list[Any] = []

    def on_interrupt(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _typed(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        sys.stdout.write("\n")
        return None


def _piped(prompt: str) -> str | None:
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
