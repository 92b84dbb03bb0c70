"""Text to ids and back: a vocabulary that is learnt here, or that of any Hugging Face folder.

Knows which ids are control tokens, and how the files are laid out so that `transformers.AutoTokenizer` gives identical
ids. Leaves to others: the libraries that encode (`backends/`), how a vocabulary is learnt (`learning.py`),
conversations (`templates.py`, `chat.py`), whether a document begins with `bos_id` (the caller adds it: `encode` never
adds a token), and models.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from handscroll.text.backends import Backend, Encoding
from handscroll.text.backends.fast import FastBackend
from handscroll.text.backends.reading import read_backend, read_json
from handscroll.text.files import write_files
from handscroll.text.learning import SPECIAL_TOKENS, UNKNOWN, Han, Kind, learn
from handscroll.text.roles import CONFIGURED, ROLES
from handscroll.text.templates import DEFAULT_CHAT_TEMPLATE

# How widely used checkpoints name the token that ends a turn; decoding stops at any of them.
END_OF_TURN = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|endofturn|>")
SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f", "\n")


class Tokenizer:
    """Text to ids and back.

    `config` is the content of a tokenizer_config.json: it names the control tokens and may carry a chat template.
    Unknown keys are kept and saved again.
    """

    def __init__(self, backend: Backend, config: Mapping[str, Any], *, stop_ids: Sequence[int] = ()) -> None:
        self.backend = backend
        self.config: dict[str, Any] = dict(config)
        self.vocab_size: int = max(backend.ids.values()) + 1
        self.bos_id = self._named("bos_token")
        self.eos_id = self._named("eos_token")
        self.pad_id = self._named("pad_token")
        self.unknown_id = self._named("unk_token")
        turns = [backend.ids[name] for name in END_OF_TURN if name in backend.ids]
        ends = [id_ for id_ in (self.eos_id, self.role_id("span_end")) if id_ is not None]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([*ends, *turns, *stop_ids]))
        self._extra_stop_ids = tuple(stop_ids)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        kind: Kind = "bpe",
        han: Han | None = None,
        words: Sequence[str] = (),
        roles: tuple[str, ...] = (),
        progress: bool = False,
    ) -> "Tokenizer":
        """Learn a vocabulary of at most `vocab_size` entries (fewer if the texts hold too few pairs to merge).

        kind="bpe", byte-level, gives every text back as it was. kind="wordpiece", as BERT's, does not: white space
        becomes single spaces, and characters that are not in the texts become <|unk|>.

        han="merged", BPE's default, lets entries grow over neighbouring Han characters. han="isolated", the only way of
        WordPiece, cuts every Han character from its neighbours before merging. It costs longer Chinese sequences, and a
        Chinese name is then cut in the same way whatever surrounds it, so a model finds it again by comparing tokens.
        han="jieba" learns no entry that crosses the end of a Chinese word (see `jieba_words.py`).

        `words` are entries from the start and never cut, wherever they stand; they are plain text, no control tokens.
        `roles` (`roles.py`) are further control tokens that it gets, such as ("mask", "cls", "sep").
        `progress` shows the library's own bars on a terminal's stderr.
        """
        learnt = learn(texts, vocab_size, kind=kind, han=han, words=words, roles=roles, progress=progress)
        return cls.learnt(learnt, kind, roles)

    @classmethod
    def learnt(cls, backend_json: str, kind: Kind, roles: tuple[str, ...] = ()) -> "Tokenizer":
        """A vocabulary that was learnt here, with Handscroll's control tokens and chat template."""
        return cls(FastBackend(backend_json), _own_config(kind, roles))

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read a folder that `save` or Hugging Face's `save_pretrained` wrote, or that of an older checkpoint."""
        folder = Path(folder)
        backend, config = read_backend(folder)
        if (template := folder / "chat_template.jinja").is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        stop = read_json(folder / "generation_config.json").get("eos_token_id") or []
        return cls(backend, config, stop_ids=stop if isinstance(stop, list) else [stop])

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, or the tokenizer.model that was loaded, and tokenizer_config.json; each file appears
        whole or not at all.

        Further stop tokens, which only foreign models have, are noted where they came from: generation_config.json.
        """
        files = {**self.backend.files(), "tokenizer_config.json": _to_json(self.config)}
        if self._extra_stop_ids:
            generation = read_json(Path(folder) / "generation_config.json")
            files["generation_config.json"] = _to_json(generation | {"eos_token_id": list(self._extra_stop_ids)})
        write_files(folder, {name: [content] for name, content in files.items()})

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the file that ids come from: what gives other ids has another one."""
        content = next(iter(self.backend.files().values()))
        return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()

    @property
    def opening_ids(self) -> list[int]:
        """The tokens that the tokenizer's own settings put before every text, beginning-of-text or none."""
        told = self.config.get("add_bos_token")
        if told is None:
            return [self.backend.ids[name] for name in self.backend.opens_with(self.config)]
        return [self.bos_id] if told and self.bos_id is not None else []

    @cached_property
    def sentence_ends(self) -> tuple[int, ...]:
        """The entries whose text ends as sentences do, with . ! ? or a full-width one, or as lines do.

        A full-width one that the vocabulary cuts into bytes isn't known by any of them.
        """
        return tuple(id_ for id_ in range(self.vocab_size) if self.decode([id_]).endswith(SENTENCE_ENDS))

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
        return dict(self.backend.special_tokens)

    def role_id(self, role: str) -> int | None:
        """The control token of a role (`roles.py`), as its config names it or vocabularies usually do; None: none."""
        configured = self._named(f"{role}_token")
        if configured is not None:
            return configured
        return next((self.special_tokens[name] for name in ROLES[role] if name in self.special_tokens), None)

    def id_of(self, name: str) -> int:
        """The id of one vocabulary entry, such as "<|user|>"."""
        if name not in self.backend.ids:
            known = ", ".join(self.special_tokens)
            raise ValueError(f"{name!r} is not in the vocabulary; its special tokens are {known}")
        return self.backend.ids[name]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`, nothing added.

        With special=False a user who types "<|end|>" gets the bytes of those characters, never the control token.
        """
        return self.backend.encode(text, special)

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """`encode` of many texts, on all cores that the library is given."""
        return self.backend.encode_batch(texts, special)

    def encode_with_offsets(self, text: str, *, special: bool = False) -> Encoding:
        """Ids and the characters of `text` that each covers."""
        return self.backend.encode_with_offsets(text, special)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(ids, skip_special)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.backend, self.config, self._extra_stop_ids)

    def _named(self, key: str) -> int | None:
        token = self.config.get(key)
        name = token.get("content") if isinstance(token, dict) else token
        return None if name is None else self.backend.ids.get(str(name))


def _own_config(kind: Kind, roles: tuple[str, ...]) -> dict[str, Any]:
    configured = {f"{role}_token": ROLES[role][0] for role in roles if role in CONFIGURED}
    others = [ROLES[role][0] for role in roles if role not in CONFIGURED]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        **({"unk_token": UNKNOWN} if kind == "wordpiece" else {}),
        **configured,
        "additional_special_tokens": [*SPECIAL_TOKENS[3:], *others],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
        "chat_template": DEFAULT_CHAT_TEMPLATE,
    }


def _rebuild(backend: Backend, config: Mapping[str, Any], stop_ids: Sequence[int]) -> Tokenizer:
    return Tokenizer(backend, config, stop_ids=stop_ids)


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
