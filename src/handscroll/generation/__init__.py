"""Generation: a model's own continuation of a prompt, read in chunks into any cache and decoded token by token.

`read` fills a cache, `generate` continues it; both are generators, so the caller prints, streams or stops. Sampling is
apart (`Sampling`, frozen options; `Sampler`, one random stream per row).

To add a way of picking tokens: extend `sampling.py` by a pure function of logits, and one field of `Sampling`.
"""

from handscroll.generation.engine import Emitted, Read, generate, read
from handscroll.generation.sampling import Sampler, Sampling

__all__ = ["Emitted", "Read", "Sampler", "Sampling", "generate", "read"]
