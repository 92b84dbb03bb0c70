"""Generation: a model's own continuation of a prompt, read in chunks into any cache and decoded token by token.

- `engine.py` reads and decodes: `read` fills a cache, `generate` continues it; both are generators, so the caller
  prints, streams or stops
- `options.py` how a token is picked (`Sampling`, frozen); `sampling.py` picks it, each row from a stream of its own;
  `logits/` holds what is done to logits, one file each, and its order; `seen.py` what rows have said
- `beam_search.py` and `best_of.py` try several continuations of one prompt
- `frames.py` where tokens stand for a model that reads what it goes on from in both directions, or fills blanks
- `sentences.py` a text as one vector, of sentence encoders and any other model

To add a way of picking tokens: see `logits/__init__.py`.
"""

from handscroll.generation.beam_search import BeamSearch, Hypothesis, beam_search
from handscroll.generation.best_of import samples
from handscroll.generation.engine import Emitted, Read, generate, read
from handscroll.generation.options import Penalties, Sampling
from handscroll.generation.sampling import Logprobs, Sampler
from handscroll.generation.sentences import SentenceEncoder, SentenceOptions, read_sentence_options

__all__ = [
    "BeamSearch",
    "Emitted",
    "Hypothesis",
    "Logprobs",
    "Penalties",
    "Read",
    "Sampler",
    "Sampling",
    "SentenceEncoder",
    "SentenceOptions",
    "beam_search",
    "generate",
    "read",
    "read_sentence_options",
    "samples",
]
