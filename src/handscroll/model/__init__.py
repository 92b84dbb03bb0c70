"""The model room: one transformer, and slots that its config fills.

`ModelConfig` (frozen) says what a network is, `Transformer` is the only network, `Layout` says where each token of a
batch stands, and `memory.py` holds the protocol behind which every cache policy lives. `slots.py` has what options of
a slot's variants have in common. `embedding.py` makes what the first layer reads; `experts.py` gives a layer several
feed-forwards, and `routing.py` says which of them a token takes. `checkpoint.py` reads and writes folders of weights;
`columns.py` is how a single token is multiplied on a CPU;
`footprint.py` says what a model, its training and its cache need before they are started.

To add a variant of a slot (attention, position, norm, feed-forward, head):
1. write one file with a class of the slot's contract, its paper in the docstring; of an attention, a position or a head
   also its frozen options, a kind of those in `slots.py`;
2. add one line to the slot's dict (`POSITIONS`, `NORMS`, `FEEDFORWARDS`, `ATTENTIONS`, `HEADS`), and one to the dict of
   names of options (`POSITION_KINDS`, `ATTENTION_KINDS`, `HEAD_KINDS`);
3. map its tensors and keys in `families/`, where checkpoints have it: `families/native.py` writes any mix by itself;
4. the contract tests in `tests/model/` run over every entry of the dict by themselves.
"""

from handscroll.model.block import Told
from handscroll.model.checkpoint import load_model, resolve, save_model
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Capture, Layout
from handscroll.model.memory import Attended, Bytes, Cache, CachePolicy, Crossbatch, DirectMemory, LayerMemory, View
from handscroll.model.slots import RopeOptions
from handscroll.model.transformer import Hidden, Transformer
from handscroll.model.weight_files import MissingCheckpoint

__all__ = [
    "Attended",
    "Bytes",
    "Cache",
    "CachePolicy",
    "Capture",
    "Crossbatch",
    "DirectMemory",
    "Hidden",
    "LayerMemory",
    "Layout",
    "MissingCheckpoint",
    "ModelConfig",
    "RopeOptions",
    "Told",
    "Transformer",
    "View",
    "load_model",
    "resolve",
    "save_model",
]
