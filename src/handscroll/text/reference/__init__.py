"""How vocabularies are learnt, written to be read: one file an algorithm, each step as its paper says.

- `corpus.py` words as sequences of units, and how often units and pairs of them stand in the text
- `bpe.py` join the most frequent pair, again and again
- `wordpiece.py` join the pair that makes the text most likely
- `training.py` a whole tokenizer from either

`learning.py` does the same with the `tokenizers` library, tens to hundreds of times as fast. For BPE both give the same
merges, which the tests compare. For WordPiece they don't: that library joins the most frequent pair there, too.
"""
