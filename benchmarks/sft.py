"""Supervised fine-tuning per time: Handscroll's trainer against TRL's SFTTrainer, same weights, chats and answers.

    python benchmarks/sft.py
    python benchmarks/sft.py --packed --rounds 5 --json

Needs trl beside Handscroll, best in an environment of its own: pip install -c constraints.txt . trl
A round is one pass over the same chats of 30 to 500 tokens, of which the assistant's are supervised, with AdamW and
clipping, eight windows of 512 tokens or eight chats a step. Handscroll always packs; TRL pads each batch to its longest
chat, or with --packed lays several chats into one window, where they see each other unless FlashAttention is installed.
Tokenizing is not counted, on neither side, and only real tokens are. TRL runs with gradient checkpointing off, which is
on by default and would make it slower.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import VOCABULARY, WINDOW, Clock, Run, arguments, compare, in_turns, save_tiny_model, show

from handscroll.model import load_model
from handscroll.text import Tokenizer, chat_tokens
from handscroll.text.chronicle import write_document
from handscroll.training import SFT, AdamWOptions, PackedSource, TokenRow, Trainer, TrainOptions
from handscroll.training.allocator import keep_freed_memory

BATCH, RATE, CLIP, CHATS = 8, 1e-3, 1.0, 160
BARS = {False: 2.0, True: 4.0}


def prepare(folder: Path) -> None:
    """The model, with a vocabulary learnt from a chronicle."""
    tokenizer = Tokenizer.train([_text()], VOCABULARY)
    save_tiny_model(folder)
    tokenizer.save(folder)


def _text() -> str:
    return write_document(0, ("en",), 40, split="train", measure=len, min_characters=400_000).text


def chats() -> list[list[dict[str, str]]]:
    """Questions of 10 to 60 words, answers of 10 to 250: most of them short, as people's are."""
    words, rng = _text().split(), random.Random(0)

    def said(low: int, high: int) -> str:
        count = int(low * (high / low) ** rng.random())
        start = rng.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    return [
        [{"role": "user", "content": said(10, 60)}, {"role": "assistant", "content": said(10, 250)}]
        for _ in range(CHATS)
    ]


def ours(folder: Path, packed: bool) -> Callable[[], list[Run]]:
    tokenizer = Tokenizer.load(folder)
    rows = []
    for chat in chats():
        ids, mask = chat_tokens(tokenizer, chat)
        rows.append(TokenRow(ids[:WINDOW], [bool(each) for each in mask[:WINDOW]]))
    pad = tokenizer.id_of("<|pad|>")
    options = TrainOptions(steps=1_000_000, optimizer=AdamWOptions(learning_rate=RATE), clip=CLIP)

    def work() -> list[Run]:
        trainer = Trainer({"model": load_model(folder)}, SFT(pad), PackedSource(rows, WINDOW, BATCH, seed=0), options)
        keep_freed_memory()  # as `train` does
        total, step, loss = sum(len(row.ids) for row in rows), 0, 0.0
        clock, tokens = Clock(), 0
        while tokens < total:
            update = trainer.step(step)
            tokens, step, loss = tokens + update.tokens, step + 1, update.loss
        return [clock.run(tokens, loss)]

    return work


def theirs(folder: Path, packed: bool) -> Callable[[], list[Run]]:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = Dataset.from_list([{"messages": chat} for chat in chats()])
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        max_grad_norm=CLIP,
        max_length=WINDOW,
        packing=packed,
        assistant_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        optim="adamw_torch",
        logging_steps=1000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )

    def work() -> list[Run]:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
        tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
        clock = Clock()
        loss = trainer.train().training_loss
        return [clock.run(tokens, loss)]

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted passes of each side (default 5)")
    parser.add_argument("--packed", action="store_true", help="let TRL pack, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        prepare(folder)
        sides = {"Handscroll": (ours, (folder, options.packed)), "TRL": (theirs, (folder, options.packed))}
        rounds = in_turns(sides, options.rounds, options.threads)
    runs = {side: [run for (run,) in each] for side, each in rounds.items()}
    row = compare("TRL packed" if options.packed else "TRL", runs, options.threads, BARS[options.packed])
    show([row], options.threads, options.json, chats=CHATS, batch=f"{BATCH} x {WINDOW}", rounds=options.rounds)


if __name__ == "__main__":
    main()
