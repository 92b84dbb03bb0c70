"""BERT (arXiv 1810.04805): an encoder that sees both sides of a token, pretrained by filling in masked ones.

Sentence encoders such as MiniLM's are BERT without a head.
"""

from handscroll.model.families.encoder import (
    FIXED,
    REQUIRED,
    SIZES,
    Names,
    read_head,
    read_position,
    read_slots,
    write_head,
    write_position,
    write_slots,
)
from handscroll.model.families.family import Family


def modules_of(prefix: str) -> dict[str, str]:
    """BERT's modules under another architecture's prefix."""
    layer = f"{prefix}.encoder.layer.{{}}"
    return {
        "embedding": f"{prefix}.embeddings.word_embeddings",
        "embedding.positions": f"{prefix}.embeddings.position_embeddings",
        "embedding.segments": f"{prefix}.embeddings.token_type_embeddings",
        "embedding.norm": f"{prefix}.embeddings.LayerNorm",
        "layers.{}.attention.q": f"{layer}.attention.self.query",
        "layers.{}.attention.k": f"{layer}.attention.self.key",
        "layers.{}.attention.v": f"{layer}.attention.self.value",
        "layers.{}.attention.o": f"{layer}.attention.output.dense",
        "layers.{}.attention_norm": f"{layer}.attention.output.LayerNorm",
        "layers.{}.feedforward.up": f"{layer}.intermediate.dense",
        "layers.{}.feedforward.down": f"{layer}.output.dense",
        "layers.{}.feedforward_norm": f"{layer}.output.LayerNorm",
        "head": "cls.predictions.decoder",
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.pooler": f"{prefix}.pooler.dense",
        "head.relation": "cls.seq_relationship",
        "head.classifier": "classifier",
        "head.ends": "qa_outputs",
    }


# Of other heads than the architecture's.
SPARE = r"position_ids$|token_type_ids$|^cls\.|\.pooler\."
DEFAULTS = {
    "vocab_size": 30522,
    "width": 768,
    "num_layers": 12,
    "num_heads": 12,
    "feedforward_width": 3072,
    "max_positions": 512,
    "norm_eps": 1e-12,
    "tied_embeddings": True,
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
    "embedding_dropout": 0.1,
}
NAMES = Names("bert", "cls.predictions")

BERT = Family(
    model_type="bert",
    architecture="BertModel",
    keys=SIZES,
    defaults=DEFAULTS,
    fixed=FIXED,
    required=REQUIRED,
    modules=modules_of("bert"),
    ignored=SPARE,
    read_position=read_position,
    write_position=write_position,
    read_slots=read_slots,
    write_slots=write_slots,
    read_head=read_head,
    write_head=write_head,
    unpack=NAMES.unpack,
    pack=NAMES.pack,
)
