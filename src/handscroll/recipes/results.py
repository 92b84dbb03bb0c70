"""results.json of a run of many parts: rewritten after each, so that the same call goes on where it was stopped.

Knows the file: what the run was given, and a list of what is finished. Leaves to its callers what a part is, and how
they say that other results are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from handscroll.text.files import write_files

RESULTS = "results.json"

Part = TypeVar("Part")


class Difference(NamedTuple):
    """An argument that a file's results were made with another value of."""

    name: str
    before: Any
    now: Any


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What decides results, as JSON gives it back."""
    given: dict[str, Any] = json.loads(json.dumps(arguments))
    return given


def write_results(out: Path, arguments: Mapping[str, Any], name: str, parts: Iterable[Mapping[str, Any]]) -> None:
    """The finished parts, called `name`. The file appears whole or stays as it was."""
    content = {**arguments, name: [*parts]}
    write_files(out, {RESULTS: [json.dumps(content, ensure_ascii=False, indent=1), "\n"]})


def read_results(
    out: Path, arguments: Mapping[str, Any], name: str, parse: Callable[[dict[str, Any]], Part], writer: str
) -> tuple[list[Part], list[Difference]]:
    """The parts that are finished, and the arguments that were others; nothing where there is no file.

    ValueError for a file that `writer` hasn't written.
    """
    path = out / RESULTS
    if not path.is_file():
        return [], []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [parse(row) for row in content[name]]
        before = {key: content[key] for key in arguments}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what {writer} has written ({error}): give another folder") from error
    return parts, [Difference(key, before[key], now) for key, now in arguments.items() if before[key] != now]
