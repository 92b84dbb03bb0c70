"""Which backend a folder asks for: tokenizer.json, tokenizer.model, vocab.txt, then vocab.json.

Knows the files of Hugging Face folders, old and new, and where each says which tokens are control tokens. The config
comes back completed with what older files say elsewhere, so that saving it loses nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from handscroll.text.backends import Backend
from handscroll.text.backends.fast import FastBackend
from handscroll.text.backends.sentencepiece_model import CHATGLM_TOKENS, SentencePieceBackend

BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
END_OF_TEXT = "<|endoftext|>"
GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


def read_backend(folder: Path) -> tuple[Backend, dict[str, Any]]:
    """The backend of a folder, and its config. ValueError for a folder that has none, or a file that is damaged."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Give the folder of a model or tokenizer, with tokenizer.json.")
    config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    for name, reader in READERS.items():
        if (path := folder / name).is_file():
            try:
                return reader(path, config), config
            except ValueError:
                raise
            except Exception as error:  # the libraries raise bare Exception and RuntimeError for what they can't read
                raise ValueError(
                    f"{path} can't be read as a tokenizer ({error}). Fetch or save the file again."
                ) from error
    raise ValueError(
        f"{folder} has no tokenizer.json, tokenizer.model, vocab.txt or vocab.json. If it holds the files of another "
        "kind of tokenizer, convert them once: "
        "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds; nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Fetch or save the file again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a JSON object. Fetch the file again.")
    return content


def _fast(path: Path, config: dict[str, Any]) -> Backend:
    original = path.with_name("tokenizer.model")
    kept = original.read_bytes() if original.is_file() else None
    try:
        return FastBackend(path.read_text(encoding="utf-8"), kept)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} can't be read as a tokenizer ({error}). Fetch or save the file again.") from error


def _sentencepiece(path: Path, config: dict[str, Any]) -> Backend:
    model = path.read_bytes()
    own = SentencePieceBackend(model, {}, ())
    for key, name in own.named.items():
        config.setdefault(key, name)
    config.setdefault("tokenizer_class", "LlamaTokenizer")
    named = _named(config)
    entries: dict[str, Any] = dict(config.get("added_tokens_decoder") or {})
    for name, id_ in read_json(path.with_name("added_tokens.json")).items():
        entries.setdefault(str(id_), {"content": name, "special": name in named})
    if config["tokenizer_class"] == "ChatGLMTokenizer":
        for id_, name in enumerate(CHATGLM_TOKENS, len(own.ids)):
            entries.setdefault(str(id_), {"content": name, "special": True})
    if entries:
        config["added_tokens_decoder"] = entries
    added = {str(entry["content"]): int(id_) for id_, entry in entries.items()}
    special = {str(entry["content"]) for entry in entries.values() if entry.get("special", True)}
    new = {name: id_ for name, id_ in added.items() if own.ids.get(name) != id_}
    return SentencePieceBackend(model, new, special | (named & own.ids.keys()) - {config.get("unk_token")})


def _wordpiece(path: Path, config: dict[str, Any]) -> Backend:
    """A vocab.txt, an entry a line, as `transformers` reads it for BERT: lower case unless the config says no."""
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ids = {line.removesuffix("\r"): id_ for id_, line in enumerate(lines)}
    for key, name in BERT_TOKENS.items():
        if name in ids:
            config.setdefault(key, name)
    unknown = _content(config.get("unk_token"))
    if unknown not in ids:
        raise ValueError(f"{path} has no entry [UNK]: it is no WordPiece vocabulary. Fetch the file again.")
    lower = bool(config.setdefault("do_lower_case", True))
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lower,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    first, last = (_content(config.get(key)) for key in ("cls_token", "sep_token"))
    if first in ids and last in ids:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(str(first), ids[first]), (str(last), ids[last])],
        )
    backend.add_special_tokens([name for name in _named(config) if name in ids])
    config.setdefault("tokenizer_class", "BertTokenizer")
    return FastBackend(backend.to_str(pretty=True))


def _byte_level(path: Path, config: dict[str, Any]) -> Backend:
    """A vocab.json with its merges.txt, as GPT-2's first folders have them; others cut texts by rules of their own."""
    merges = path.with_name("merges.txt")
    if not merges.is_file() or config.get("tokenizer_class") not in GPT2_CLASSES:
        what = f"is of {config['tokenizer_class']}" if merges.is_file() else "has no merges.txt beside it"
        raise ValueError(
            f"{path} {what}: only GPT-2's is read from these files. Convert it once: "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(path), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id(END_OF_TEXT) is not None:
        for key in ("bos_token", "eos_token", "unk_token"):
            config.setdefault(key, END_OF_TEXT)
    backend.add_special_tokens([name for name in _named(config) if backend.token_to_id(name) is not None])
    config.setdefault("tokenizer_class", "GPT2Tokenizer")
    return FastBackend(backend.to_str(pretty=True))


READERS = {
    "tokenizer.json": _fast,
    "tokenizer.model": _sentencepiece,
    "vocab.txt": _wordpiece,
    "vocab.json": _byte_level,
}


def _named(config: Mapping[str, Any]) -> set[str]:
    """The names that a config gives to control tokens."""
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    tokens = [value for key, value in config.items() if key.endswith("_token")] + (
        list(more.values()) if isinstance(more, dict) else list(more)
    )
    return {name for name in map(_content, tokens) if name is not None}


def _content(token: Any) -> str | None:
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None
