"""Decoding behind a long text: Handscroll's `full` against llama.cpp, same weights, same text, greedy, float32.

    python benchmarks/cached_llama_cpp.py
    python benchmarks/cached_llama_cpp.py --lengths 8192 --rounds 3 --json

Needs llama.cpp beside Handscroll, built for this machine, best in an environment of its own:
CMAKE_ARGS=-DGGML_NATIVE=ON pip install -c constraints.txt . llama-cpp-python gguf
The model is that of cached.py. Both sides read the same random tokens once and go on from there in each round; reading
isn't counted. llama.cpp's keys and values are float32, too, and its FlashAttention is off: it works in 16 bits within,
and is slower on a CPU. Both must say the same tokens wherever Handscroll's two best logits are more than 1e-4 apart.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from cached import config
from common import Clock, Run, arguments, compare, in_turns, move_away, show
from torch import Tensor

from handscroll.generation import read
from handscroll.kvcache import Full
from handscroll.model import Transformer, load_model, save_model
from handscroll.model.checkpoint import lay_by_columns

BATCH = 512
SURE = 1e-4
BAR = 0.85


def text(length: int, vocab_size: int) -> list[int]:
    ids: list[int] = torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    return ids


def write_gguf(model: Transformer, path: Path) -> None:
    """The model as llama.cpp reads it: in float32, without a tokenizer."""
    from gguf import GGUFWriter

    sizes, writer = model.config, GGUFWriter(path, "llama")
    writer.add_context_length(sizes.max_positions)
    writer.add_embedding_length(sizes.width)
    writer.add_block_count(sizes.num_layers)
    writer.add_feed_forward_length(sizes.feedforward_width)
    writer.add_head_count(sizes.num_heads)
    writer.add_head_count_kv(sizes.num_kv_heads)
    writer.add_rope_dimension_count(sizes.head_width)
    writer.add_rope_freq_base(sizes.position.theta)
    writer.add_layer_norm_rms_eps(sizes.norm_eps)
    writer.add_vocab_size(sizes.vocab_size)
    writer.add_tokenizer_model("none")
    tensors = {"token_embd": model.embedding.weight, "output_norm": model.norm.weight}
    for number, layer in enumerate(model.layers):
        attention, feedforward = layer.attention, layer.feedforward
        parts = {
            "attn_norm": layer.attention_norm.weight,
            "attn_q": adjacent(attention.q.weight, sizes.head_width),
            "attn_k": adjacent(attention.k.weight, sizes.head_width),
            "attn_v": attention.v.weight,
            "attn_output": attention.o.weight,
            "ffn_norm": layer.feedforward_norm.weight,
            "ffn_gate": feedforward.gate.weight,
            "ffn_up": feedforward.up.weight,
            "ffn_down": feedforward.down.weight,
        }
        tensors |= {f"blk.{number}.{name}": weight for name, weight in parts.items()}
    for name, weight in tensors.items():
        writer.add_tensor(f"{name}.weight", weight.detach().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def adjacent(weight: Tensor, head_width: int) -> Tensor:
    """The outputs of each head in the order in which llama.cpp turns them: pairs side by side instead of by halves."""
    return weight.unflatten(0, (-1, 2, head_width // 2)).transpose(1, 2).flatten(0, 2)


def ours(folder: Path, length: int, new_tokens: int) -> Callable[[], list[Run]]:
    model = load_model(folder).eval()
    lay_by_columns(model)
    cache = Full().start(model.config, model.position, 1)
    for _ in read(model, [text(length, model.config.vocab_size)], cache, only_last=True):
        pass

    def work() -> list[Run]:
        with torch.inference_mode():
            fork, token, said = cache.select([0]), torch.zeros(1, 1, dtype=torch.int64), []
            model(token, cache=fork)
            clock = Clock()
            for _ in range(new_tokens):
                best = model(token, cache=fork)[0, -1].topk(2)
                token = best.indices[None, :1]
                said.append((int(token), best.values))
            run = clock.run(new_tokens)
        return [replace(run, result=[(token, float(first - second)) for token, (first, second) in said])]

    return work


def theirs(path: Path, length: int, new_tokens: int, threads: int) -> Callable[[], list[Run]]:
    import llama_cpp as api
    import numpy

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    options = api.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = length + new_tokens + 1, BATCH, BATCH
    options.n_threads = options.n_threads_batch = threads
    options.type_k = options.type_v = api.GGML_TYPE_F32
    options.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = api.llama_init_from_model(model, options)
    assert context, "llama.cpp made no context"
    vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def advance(ids: Sequence[int]) -> None:
        # The batch only points to them.
        tokens = (api.llama_token * len(ids))(*ids)
        failed = api.llama_decode(context, api.llama_batch_get_one(tokens, len(ids)))
        assert not failed, "llama.cpp couldn't go on"

    ids = text(length, vocab_size)
    for first in range(0, length, BATCH):
        advance(ids[first : first + BATCH])

    def work() -> list[Run]:
        api.llama_memory_seq_rm(api.llama_get_memory(context), 0, length, -1)
        token, said = 0, []
        advance([token])
        clock = Clock()
        for _ in range(new_tokens):
            advance([token])
            logits_V = numpy.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), shape=(vocab_size,))
            token = int(logits_V.argmax())
            said.append(token)
        return [clock.run(new_tokens, said)]

    return work


def check_alike(length: int, ours: Sequence[tuple[int, float]], theirs: Sequence[int]) -> None:
    """SystemExit where the sides part at a token that is in no doubt; what comes after one in doubt may differ."""
    for place, ((token, gap), other) in enumerate(zip(ours, theirs, strict=True)):
        if token != other and gap > SURE:
            raise SystemExit(
                f"the sides don't say the same behind {length:,} tokens: at new token {place} ours is {token}, "
                f"{gap:.2g} above the next one, theirs {other}"
            )
        if token != other:
            return


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", default="8192,32768", help="cached tokens, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each side (default 5)")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens generated in a round (default 16)")
    options = parser.parse_args()
    if find_spec("llama_cpp") is None or find_spec("gguf") is None:
        print("left out: llama.cpp is not installed here; --help says how to install it")
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name) / "model", Path(name) / "model.gguf"
        model = Transformer(config(1 << 16), seed=0)
        move_away(model)
        save_model(model, folder)
        write_gguf(model, path)
        for length in map(int, options.lengths.split(",")):
            sides = {
                "Handscroll": (ours, (folder, length, options.new_tokens)),
                "llama.cpp": (theirs, (path, length, options.new_tokens, options.threads)),
            }
            rounds = in_turns(sides, options.rounds, options.threads)
            runs = {side: [run for (run,) in each] for side, each in rounds.items()}
            check_alike(length, *(each[0].result for each in runs.values()))
            rows.append(compare(f"{length:,} cached", runs, options.threads, BAR if length == 8192 else None))
    setting: dict[str, Any] = {"new_tokens": options.new_tokens, "rounds": options.rounds, "size": "26.7 M weights"}
    show(rows, options.threads, options.json, **setting)


if __name__ == "__main__":
    main()
