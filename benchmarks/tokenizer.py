"""Learning a vocabulary and encoding: Handscroll against the `tokenizers` library called directly, in one run.

    python benchmarks/tokenizer.py
    python benchmarks/tokenizer.py novel.txt poems.jsonl --vocab-size 16000 --json

Both learn byte-level BPE of the same pieces, and must come to the same ids. Files are cut at line ends into texts of
about 10,000 characters. Without files the text is a chronicle. With `--reference`, the readable BPE learns as well,
from the first `--reference-characters`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import tokenizers
from common import Clock, Run, arguments, compare, in_turns, show
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from handscroll.text import Tokenizer, read_texts
from handscroll.text.chronicle import write_document
from handscroll.text.learning import SPECIAL_TOKENS, SPLIT_PATTERN
from handscroll.text.reference.training import train as train_by_reference

PIECE = 10_000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("files", nargs="*", help="txt, md or jsonl; default: a chronicle")
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference", action="store_true", help="time the readable BPE, too")
    parser.add_argument("--reference-characters", type=int, default=100_000)
    options = parser.parse_args()
    # What `tokenizers` looks at; its processes are started later.
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.threads > 1 else "false"
    texts = pieces_of(options.files)
    given = (texts, options.vocab_size)
    ours, theirs = "handscroll", "tokenizers"
    runs = in_turns({ours: (our_side, given), theirs: (their_side, given)}, options.rounds, options.threads)
    assert all(mine[1].result == other[1].result for mine, other in zip(runs[ours], runs[theirs], strict=True))
    rows = []
    for place, what in enumerate(("learning", "encoding", "encoding, text by text")):
        sides = {name: [each[place] for each in rounds] for name, rounds in runs.items()}
        rows.append(compare(what, sides, options.threads, 0.9))
    if options.reference:
        short = ("".join(texts)[: options.reference_characters],)
        given = (short, options.vocab_size)
        slow = in_turns({"reference": (reference_side, given), ours: (learning_side, given)}, 1, options.threads)
        sides = {ours: [each[0] for each in slow["reference"]], theirs: [each[0] for each in slow[ours]]}
        rows.append(compare("learning by the reference (ours) and the library", sides, options.threads))
    size = sum(len(text.encode()) for text in texts)
    clock = "CPU-second" if options.threads == 1 else "second"
    show(rows, options.threads, options.json, unit=f"bytes per {clock}", megabytes=round(size / 1e6, 2), model=None)


def pieces_of(files: Sequence[str]) -> list[str]:
    texts = read_texts(files) if files else [write_document(0, ("en", "zh"), 500_000, split="train").text]
    pieces = []
    for text in texts:
        piece: list[str] = []
        for line in text.splitlines(keepends=True):
            piece.append(line)
            if sum(map(len, piece)) >= PIECE:
                pieces.append("".join(piece))
                piece = []
        pieces.append("".join(piece))
    return [piece for piece in pieces if piece.strip()]


def our_side(texts: Sequence[str], vocab_size: int) -> Callable[[], list[Run]]:
    def learn() -> Tokenizer:
        return Tokenizer.train(texts, vocab_size)

    return lambda: _rounds(texts, learn, lambda t, each: t.encode_batch(each), lambda t, each: t.encode(each))


def their_side(texts: Sequence[str], vocab_size: int) -> Callable[[], list[Run]]:
    def learn() -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return backend

    return lambda: _rounds(
        texts,
        learn,
        lambda backend, each: [encoded.ids for encoded in backend.encode_batch_fast(each)],
        lambda backend, each: backend.encode(each).ids,
    )


def reference_side(texts: Sequence[str], vocab_size: int) -> Callable[[], list[Run]]:
    def learn() -> list[Run]:
        clock = Clock()
        for _ in train_by_reference(texts, vocab_size):
            pass
        return [clock.run(_bytes(texts))]

    return learn


def learning_side(texts: Sequence[str], vocab_size: int) -> Callable[[], list[Run]]:
    def learn() -> list[Run]:
        clock = Clock()
        Tokenizer.train(texts, vocab_size)
        return [clock.run(_bytes(texts))]

    return learn


def _rounds(texts: Sequence[str], learn: Callable, together: Callable, alone: Callable) -> list[Run]:
    size = _bytes(texts)
    clock = Clock()
    tokenizer = learn()
    runs = [clock.run(size)]
    clock = Clock()
    ids = together(tokenizer, list(texts))
    runs.append(clock.run(size, ids))
    clock = Clock()
    for text in texts:
        alone(tokenizer, text)
    return [*runs, clock.run(size)]


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


if __name__ == "__main__":
    main()
