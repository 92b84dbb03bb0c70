"""Chat templates: from messages to text, with the places of what the assistant said.

Knows jinja's sandbox and the `{% generation %}` tag that `transformers` defines. Leaves to others where a template
comes from (`tokenizer.py`) and how the text becomes ids (`chat.py`).

A template is somebody else's code, so it runs in jinja2's immutable sandbox with the names that `transformers` offers:
https://huggingface.co/docs/transformers/chat_templating_writing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

DEFAULT_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ('system', 'user', 'assistant') -%}"
    "{{- raise_exception('the role is ' ~ message['role'] ~ '; it must be system, user or assistant') -}}"
    "{%- endif -%}"
    "{{- '<|' ~ message['role'] ~ '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] ~ '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] ~ '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
# Unicode noncharacters: reserved for use inside a program, so they mark places in a text on its way through jinja.
NONCHARACTERS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))

Message = Mapping[str, Any]


class Rendered(NamedTuple):
    """A conversation as text, and the (start, end) characters of what the assistant said, end token included."""

    text: str
    spans: list[tuple[int, int]]


def render(
    template: str,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    *,
    variables: Mapping[str, Any] | None = None,
) -> Rendered:
    """Run a jinja template over messages.

    variables: further names for the template, such as bos_token. Spans come from `{% generation %}` blocks; a
    template without them gives none. Raises ValueError when the template refuses the messages or can't run.
    """
    check_messages(messages)
    opening, closing, *_ = unused_characters(template, messages, variables)
    try:
        text = _compile(template, opening, closing).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            **{"tools": None, "documents": None, **(variables or {})},
        )
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise ValueError(f"the chat template does not accept these messages: {error}") from error
    return _take_spans(text, opening, closing)


class _Generation(jinja2.ext.Extension):
    """The `{% generation %}` tag: puts a mark before and after what it holds."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        marks: tuple[str, str] = self.environment.globals["_marks"]  # type: ignore[assignment]
        return marks[0] + caller() + marks[1]


@lru_cache(maxsize=64)
def _compile(template: str, opening: str, closing: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.globals["_marks"] = (opening, closing)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    # jinja's own filter escapes for HTML, which would change what the model reads.
    environment.filters["tojson"] = lambda value, indent=None, **_: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(template)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _take_spans(text: str, opening: str, closing: str) -> Rendered:
    """Take the marks out; what was between them is a span."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    length = start = 0
    for piece in re.split(f"([{opening}{closing}])", text):
        if piece == opening:
            start = length
        elif piece == closing:
            spans.append((start, length))
        else:
            pieces.append(piece)
            length += len(piece)
    return Rendered("".join(pieces), spans)


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ValueError unless every message has a role."""
    if not messages:
        raise ValueError("there are no messages; give at least one {'role': ..., 'content': ...}")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or "role" not in message:
            raise ValueError(f"message {number} is {message!r}; it must be {{'role': ..., 'content': ...}}")


def unused_characters(*given: Any) -> list[str]:
    """Three or more noncharacters that occur nowhere in what is given."""
    # repr reaches strings at any depth, and writes noncharacters as escapes.
    written = repr(given)
    free = [character for character in NONCHARACTERS if f"\\u{ord(character):04x}" not in written]
    if len(free) < 3:
        raise ValueError("the messages use nearly all Unicode noncharacters (U+FDD0 to U+FDEF); remove them")
    return free
