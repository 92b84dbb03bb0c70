"""Text: from files and conversations to token ids, and the synthetic world in which reading is measured.

What it is for
    tokenizer.py   train, load any Hugging Face folder, encode, decode
    learning.py    byte-level BPE and WordPiece, learnt by the `tokenizers` library
    jieba_words.py bounds what is learnt by the words of Chinese
    backends/      what encodes: a tokenizer.json, a tokenizer.model (sentencepiece)
    reference/     BPE and WordPiece learnt readably and slowly
    streaming.py   ids that arrive one by one, as text
    pieces.py      a text as its tokens, to look at
    templates.py   jinja chat templates in a sandbox, with the places of what the assistant said
    chat.py        a conversation as ids and a mask
    formats.py     txt, md and jsonl files as rows
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

A further file format is a branch of `formats.iterate_rows`, six lines:

    ROW_SUFFIXES = (".jsonl", ".csv")

    if file.suffix.lower() == ".csv":
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
            yield _checked(f"{file}:{number}", row)
        return

A further relation of the chronicle is one entry of `chronicle.RELATIONS`; see there. A further task is one
entry of `tasks.TASKS`.
"""

from handscroll.text.backends import Encoding
from handscroll.text.chat import DEFAULT_CHAT_TEMPLATE, ChatTokens, Rendered, chat_tokens, render
from handscroll.text.formats import Row, iterate_rows, read_rows, read_texts
from handscroll.text.packing import Packed, Plan, Segment, assemble, gather, pack
from handscroll.text.streaming import StreamDecoder
from handscroll.text.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "ChatTokens",
    "Encoding",
    "Packed",
    "Plan",
    "Rendered",
    "Row",
    "Segment",
    "StreamDecoder",
    "Tokenizer",
    "assemble",
    "chat_tokens",
    "gather",
    "iterate_rows",
    "pack",
    "read_rows",
    "read_texts",
    "render",
]
