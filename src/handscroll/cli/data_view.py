"""What `handscroll data inspect` prints: rows with what of them is learnt or hidden, and their counts.

Knows terminals and what `recipes/inspection.py` finds; how rows are read and what an objective hides is left to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handscroll.cli.display import has_colours

if TYPE_CHECKING:
    from rich.console import Console

# Of what is hidden, by the level of its unit.
COLOURS = {"token": "green", "phrase": "yellow", "entity": "cyan"}


def print_rows(target: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as they are, what is learnt marked: by colour where there is some, else by brackets."""
    from rich.text import Text

    for row in rows:
        size = f", {row['tokens']:,} tokens, {row['supervised_tokens']:,} learnt" if "tokens" in row else ""
        told = {name: ", ".join(map(str, values)) for name, values in row.get("labels", {}).items() if values}
        labels = "".join(f", {name} {values}" for name, values in told.items())
        target.print(f"{row['place']}: {row['kind']}{size}{labels}", style="bold")
        for view in row["views"]:
            text = Text()
            for piece in view:
                # Whatever a file holds, it moves no cursor and sets no colour.
                shown, hides = (part.replace("\x1b", "\u241b") for part in (piece["text"], piece.get("hides", "")))
                left, right = ("\u27e6", "\u27e7") if piece["supervised"] and not has_colours(target) else ("", "")
                if "hides" in piece:
                    colour = COLOURS.get(piece.get("level", ""), "green")
                    level = f":{piece['level']}" if "level" in piece else ""
                    text.append(f"{left}{shown}\u2192", "magenta").append(hides, f"{colour} underline")
                    text.append(f"{level}{right}", colour)
                else:
                    text.append(f"{left}{shown}{right}", "green underline" if piece["supervised"] else "")
            target.print(text)
        target.print()


def summary(result: Mapping[str, Any]) -> str:
    """Rows by kind, tokens and the longest row, in a few lines."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in result["kinds"].items())
    unit = "tokens" if "tokens" in result else "characters"
    lines = [f"{result['rows']:,} rows: {kinds}"]
    if unit == "tokens":
        # Of an objective that draws what it hides only the rows that are shown tell what was learnt.
        shown = result if "supervised_tokens" in result else _added(result["shown"])
        share = shown["supervised_tokens"] / max(1, shown["tokens"])
        among = "of them" if shown is result else f"of the {shown['tokens']:,} that are shown"
        lines.append(f"{result['tokens']:,} tokens, {shown['supervised_tokens']:,} {among} learnt ({share:.0%})")
    else:
        lines.append(f"{result['characters']:,} characters; --tokenizer MODEL counts and shows tokens")
    lines.append(f"longest row: {result['longest'][unit]:,} {unit}, {result['longest']['place']}")
    skipped = result["skipped"]
    if skipped["count"]:
        lines.append(f"{skipped['count']:,} bad rows left out, the first of them:")
        lines.extend(f"  {line}" for line in skipped["first"])
    return "\n".join(lines)


def _added(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {key: sum(row[key] for row in rows) for key in ("tokens", "supervised_tokens")}
