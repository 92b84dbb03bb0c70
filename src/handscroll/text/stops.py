"""Stop strings: a text that arrives in pieces ends before the first of them, and no part of one is ever shown.

What may become a stop string is held back until it does, or can't any more. Knows characters only: how tokens become
whole characters is `StreamDecoder`'s business.
"""

from collections.abc import Sequence


class StopStrings:
    """The text before whichever of `stops` is complete first; of several complete at once, the longest."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("a stop string is empty: give at least one character")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """Add a piece of text (mutates); returns what can be shown of it and of what was held back.

        Once a stop string is `found`, nothing more is shown.
        """
        if self.found is not None:
            return ""
        text, self._held = self._held + piece, ""
        places = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if places:
            end, _, self.found = min(places)
            return text[: end - len(self.found)]
        length = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - length :]
        return text[: len(text) - length]

    def flush(self) -> str:
        """What is still held back, as the text has ended otherwise (mutates)."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Of how many characters the longest beginning of `stop` is that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
