"""Byte-level BPE through the `tokenizers` library: trained here, or read from any Hugging Face folder.

Knows how text becomes ids and back, which ids are control tokens, and how the files are laid out so that
`transformers.AutoTokenizer` gives identical ids. Leaves to others: conversations (`templates.py`, `chat.py`),
whether a document begins with `bos_id` (the caller adds it: `encode` never adds a token), and models.

Byte-level BPE is the scheme of GPT-2 (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf);
the split pattern is Llama 3's (https://arxiv.org/abs/2407.21783), which cuts numbers into groups of up to three digits,
but a number keeps the space before it, as words do.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from handscroll.text.files import write_files
from handscroll.text.templates import DEFAULT_CHAT_TEMPLATE

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
# How widely used checkpoints name the token that ends a turn; decoding stops at any of them.
END_OF_TURN = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endofturn|>")
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALLEST_VOCAB = 256 + len(SPECIAL_TOKENS)
SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f", "\n")

Han = Literal["merged", "isolated"]


class Encoding(NamedTuple):
    """Ids of a text and, for each id, the (start, end) characters it covers.

    A character that was cut into several tokens is covered by each of them.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """Text to ids and back.

    `backend_json` is the content of a tokenizer.json, `config` that of a tokenizer_config.json: it names
    the control tokens and may carry a chat template. Unknown keys are kept and saved again.
    """

    def __init__(self, backend_json: str, config: Mapping[str, Any], *, stop_ids: Sequence[int] = ()) -> None:
        self.config: dict[str, Any] = dict(config)
        self._json = backend_json
        # Two copies, because whether control tokens in a text are obeyed is a setting of the copy:
        # switching one shared copy to and fro would race between threads.
        self._obeying = tokenizers.Tokenizer.from_str(backend_json)
        self._literal = tokenizers.Tokenizer.from_str(backend_json)
        for backend in (self._obeying, self._literal):
            backend.no_padding()
            backend.no_truncation()
        self._literal.encode_special_tokens = True
        self._ids: dict[str, int] = self._obeying.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(self._ids.values()) + 1
        self.bos_id = self._named("bos_token")
        self.eos_id = self._named("eos_token")
        self.pad_id = self._named("pad_token")
        turns = [self._ids[name] for name in END_OF_TURN if name in self._ids]
        eos = [] if self.eos_id is None else [self.eos_id]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([*eos, *turns, *stop_ids]))
        self._extra_stop_ids = tuple(stop_ids)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, han: Han = "merged", words: Sequence[str] = ()
    ) -> "Tokenizer":
        """Learn a vocabulary of at most `vocab_size` entries (fewer if the texts hold too few pairs to merge).

        han="isolated" cuts every Han character from its neighbours before merging. It costs longer Chinese
        sequences, and a Chinese name is then cut in the same way whatever surrounds it, so a model finds it
        again by comparing tokens. `words` are entries from the start and never cut, wherever they stand; they are
        plain text, no control tokens.
        """
        smallest = SMALLEST_VOCAB + len(words)
        if vocab_size < smallest:
            raise ValueError(
                f"vocab_size is {vocab_size}; it must be at least {smallest} (256 bytes, {len(SPECIAL_TOKENS)} special "
                f"tokens and {len(words)} words). Ask for a larger vocabulary."
            )
        steps: list[Any] = [pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")]
        if han == "isolated":
            steps.append(pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"))
        elif han != "merged":
            raise ValueError(f"han is {han!r}; it must be 'merged' or 'isolated'")
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(words),
            special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(_refuse_empty(texts), trainer)
        backend.add_tokens([AddedToken(word, normalized=False) for word in words])
        return cls(backend.to_str(pretty=True), _own_config())

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read a folder that `save` or Hugging Face's `save_pretrained` wrote."""
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder. Give the folder of a model or tokenizer, with tokenizer.json.")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(
                f"{folder} has no tokenizer.json. If it holds a tokenizer.model or vocab.txt of an older checkpoint, "
                "convert it once: transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            )
        config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        if (template := folder / "chat_template.jinja").is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        stop = _read_json(folder / "generation_config.json").get("eos_token_id") or []
        try:
            return cls(path.read_text(encoding="utf-8"), config, stop_ids=stop if isinstance(stop, list) else [stop])
        except Exception as error:  # the library raises bare Exception for a file that it can't read
            raise ValueError(f"{path} can't be read as a tokenizer ({error}). Fetch or save the file again.") from error

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json; each file appears whole or not at all.

        Further stop tokens, which only foreign models have, are noted where they came from: generation_config.json.
        """
        files = {"tokenizer.json": self._json, "tokenizer_config.json": _to_json(self.config)}
        if self._extra_stop_ids:
            generation = _read_json(Path(folder) / "generation_config.json")
            files["generation_config.json"] = _to_json(generation | {"eos_token_id": list(self._extra_stop_ids)})
        write_files(folder, {name: [content] for name, content in files.items()})

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of tokenizer.json: what gives other ids has another one."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    @property
    def opening_ids(self) -> list[int]:
        """The beginning-of-text token, if the tokenizer's own settings put it before every text; often none."""
        told = self.config.get("add_bos_token")
        if self.bos_id is None or told is False:
            return []
        adds = bool(told) or self._obeying.encode("").ids[:1] == [self.bos_id]
        return [self.bos_id] if adds else []

    @cached_property
    def sentence_ends(self) -> tuple[int, ...]:
        """The entries whose text ends as sentences do, with . ! ? or a full-width one, or as lines do.

        A full-width one that the vocabulary cuts into bytes isn't known by any of them.
        """
        texts = self._obeying.decode_batch([[id_] for id_ in range(self.vocab_size)], skip_special_tokens=False)
        return tuple(id_ for id_, text in enumerate(texts) if text.endswith(SENTENCE_ENDS))

    @property
    def chat_template(self) -> str | None:
        """The jinja template of a conversation; of several named ones the default; None if there is none."""
        template = self.config.get("chat_template")
        if isinstance(template, list):
            return next((str(entry["template"]) for entry in template if entry.get("name") == "default"), None)
        return None if template is None else str(template)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The control tokens, name -> id."""
        return {t.content: i for i, t in sorted(self._obeying.get_added_tokens_decoder().items()) if t.special}

    def id_of(self, name: str) -> int:
        """The id of one vocabulary entry, such as "<|user|>"."""
        if name not in self._ids:
            known = ", ".join(self.special_tokens)
            raise ValueError(f"{name!r} is not in the vocabulary; its special tokens are {known}")
        return self._ids[name]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`, nothing added.

        With special=False a user who types "<|end|>" gets the bytes of those characters, never the control token.
        """
        ids: list[int] = self._backend(special).encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """`encode` of many texts, on all cores that the library is given."""
        return [e.ids for e in self._backend(special).encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, text: str, *, special: bool = False) -> Encoding:
        """Ids and the characters of `text` that each covers."""
        encoded = self._backend(special).encode(text, add_special_tokens=False)
        return Encoding(encoded.ids, encoded.offsets)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._obeying.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._json, self.config, self._extra_stop_ids)

    def _backend(self, special: bool) -> tokenizers.Tokenizer:
        return self._obeying if special else self._literal

    def _named(self, key: str) -> int | None:
        token = self.config.get(key)
        name = token.get("content") if isinstance(token, dict) else token
        return None if name is None else self._ids.get(str(name))


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


def _refuse_empty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise ValueError("there is no text to learn a vocabulary from. Give at least one text that is not blank.")


def _own_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": list(SPECIAL_TOKENS[3:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
        "chat_template": DEFAULT_CHAT_TEMPLATE,
    }


def _rebuild(backend_json: str, config: Mapping[str, Any], stop_ids: Sequence[int]) -> Tokenizer:
    return Tokenizer(backend_json, config, stop_ids=stop_ids)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Fetch or save the file again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a JSON object. Fetch the file again.")
    return content


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
