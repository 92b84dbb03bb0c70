"""Text: from files and conversations to token ids, and the synthetic world in which reading is measured.

What it is for
    tokenizer.py   train, load any Hugging Face folder, encode, decode
    learning.py    byte-level BPE and WordPiece, learnt by the `tokenizers` library
    units/         entities, phrases and words of a text, for `ernie`
    roles.py       control tokens by what they are for
    jieba_words.py bounds what is learnt by the words of Chinese
    backends/      what encodes: a tokenizer.json, a tokenizer.model (sentencepiece)
    reference/     BPE and WordPiece learnt readably and slowly
    streaming.py   ids that arrive one by one, as text
    pieces.py      a text as its tokens, to look at
    templates.py   jinja chat templates in a sandbox, with the places of what the assistant said
    chat.py        a conversation as ids and a mask
    stops.py       stop strings in a text that arrives in pieces
    formats.py     txt, md, jsonl, json, csv and parquet files as records, one by one
    columns.py     TRL's, Alpaca's and ShareGPT's columns as rows of four kinds
    corpus.py      the rows of files and folders, each with its place; bad ones named or counted
    packing.py     which rows share a window, as a pure function of (lengths, window, seed, epoch)
    chronicle/     a bilingual synthetic world with exact ground truth, for any length and seed
    tasks/         long-context tasks over it and beside it: needles, pairs, chains, counts, RULER by name

Contracts
    - `encode` adds nothing and obeys nothing: no beginning-of-text token, and a control token's name in a text is
      encoded as the characters it is made of. Only `special=True` and chat templates give control tokens.
    - What `save` writes, `transformers.AutoTokenizer` reads with identical ids.
    - All offsets count characters, never bytes or tokens.
    - Whatever is drawn takes a `random.Random` or a seed, and the same seed gives the same bytes.
    - A user's mistake is a ValueError that names the file, the value, the allowed values and the way out.
    - This room imports nothing else of the project, and no torch.

A further file format is a function of `formats.py` that yields numbered records, and one entry of `READERS`:

    def _read_tsv(file: Path, stream: IO[bytes]) -> Iterator[Numbered]:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        for number, record in enumerate(csv.DictReader(lines, delimiter="\\t"), 2):
            yield Numbered(number, record)

A further layout of columns is one entry of `columns.LAYOUTS`.

A further relation of the chronicle is one entry of `chronicle.RELATIONS`; see there. A further task is one
entry of `tasks.TASKS`.
"""

from handscroll.text.backends import Encoding
from handscroll.text.chat import DEFAULT_CHAT_TEMPLATE, ChatTokens, Rendered, chat_tokens, render
from handscroll.text.columns import Row, kind_of, row_text
from handscroll.text.corpus import Corpus, Located, Skipped, read_rows, read_texts
from handscroll.text.packing import Packed, Plan, Segment, assemble, gather, pack
from handscroll.text.streaming import StreamDecoder
from handscroll.text.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "ChatTokens",
    "Corpus",
    "Encoding",
    "Located",
    "Packed",
    "Plan",
    "Rendered",
    "Row",
    "Segment",
    "Skipped",
    "StreamDecoder",
    "Tokenizer",
    "assemble",
    "chat_tokens",
    "gather",
    "kind_of",
    "pack",
    "read_rows",
    "read_texts",
    "render",
    "row_text",
]
