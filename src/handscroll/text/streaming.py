"""Ids that arrive one by one, as text: a character is held back until all its bytes are there."""

from handscroll.text.tokenizer import Tokenizer


class StreamDecoder:
    """Turns ids that arrive one by one into text, holding back a character until all its bytes are there."""

    LONGEST_WAIT = 64  # tokens; only bytes that never become UTF-8 wait so long

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._ids: list[int] = []
        self._shown = 0  # of self._ids, how many are already shown; they stay as context for the next

    def feed(self, token_id: int) -> str:
        """Add an id (mutates); returns the text that became complete, often a word, sometimes nothing."""
        self._ids.append(token_id)
        return self._emit(len(self._ids) - self._shown >= self.LONGEST_WAIT)

    def flush(self) -> str:
        """What is still held back, with U+FFFD for missing bytes (mutates)."""
        return self._emit(True)

    def _emit(self, anyway: bool) -> str:
        # Decoded together with the last shown ids, since some vocabularies drop a space at the very start.
        shown = self._tokenizer.decode(self._ids[: self._shown], skip_special=self._skip_special)
        text = self._tokenizer.decode(self._ids, skip_special=self._skip_special)
        if text.endswith("\ufffd") and not anyway:
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(shown) :]
