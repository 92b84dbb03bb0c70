"""What is done to logits before a token is picked: pure functions, one idea a file, in the order of `transformers`.

    1. `bias.py`            chosen tokens are raised, lowered or forbidden
    2. `repetition.py`      what was read or said before becomes less likely, however often it was
    3. `no_repeat_ngram.py` what would repeat a sequence of n tokens is forbidden
    4. `occurrences.py`     what was said loses by whether, and by how often (presence, frequency)
    5. `temperature.py`     differences grow or shrink
    6. `top_k.py`, 7. `top_p.py`, 8. `min_p.py`, 9. `typical.py`: unlikely (or untypical) tokens are left out

1 to 4 always count, 5 to 9 only where tokens are drawn. A filter judges what those before it have left. A token that is
left out has a logit of minus infinity. All take and give (B, V) and leave what they were given as it was; what rows
have said is kept in `generation/seen.py`.

To add one: write a file with a pure function, give `Sampling` or `Penalties` a field with its bounds, and call it at
its place in `penalized` or `filtered` (`generation/sampling.py`).
"""

from handscroll.generation.logits.bias import bias
from handscroll.generation.logits.min_p import min_p
from handscroll.generation.logits.no_repeat_ngram import no_repeat_ngram
from handscroll.generation.logits.occurrences import occurrences
from handscroll.generation.logits.repetition import repetition
from handscroll.generation.logits.temperature import temperature
from handscroll.generation.logits.top_k import top_k
from handscroll.generation.logits.top_p import top_p
from handscroll.generation.logits.typical import typical

__all__ = [
    "bias",
    "min_p",
    "no_repeat_ngram",
    "occurrences",
    "repetition",
    "temperature",
    "top_k",
    "top_p",
    "typical",
]
