"""Control tokens by what they are for: the one that hides another is "mask", whatever a tokenizer calls it.

Knows the names that widely used vocabularies have for each role, and how a vocabulary learnt here names it, which is
the first one. Which role a text needs is its maker's business.
"""

# role: names, ours first. BERT's and ALBERT's are in brackets; those without are of GLM and ChatGLM.
ROLES: dict[str, tuple[str, ...]] = {
    "mask": ("<|mask|>", "[MASK]", "<mask>"),
    "cls": ("<|cls|>", "[CLS]", "<cls>"),
    "sep": ("<|sep|>", "[SEP]", "<sep>"),
    "sentence_mask": ("<|sentence_mask|>", "[sMASK]"),
    "document_mask": ("<|document_mask|>", "[gMASK]"),
    "span_start": ("<|span_start|>", "<|startofpiece|>", "<sop>", "sop"),
    "span_end": ("<|span_end|>", "<|endofpiece|>", "<eop>", "eop"),
}
# The roles that a tokenizer_config.json has keys for: "mask_token" and so on.
CONFIGURED = ("mask", "cls", "sep")


def own_names(roles: tuple[str, ...]) -> tuple[str, ...]:
    """What a vocabulary learnt here calls them. ValueError for a role that isn't known."""
    for role in roles:
        if role not in ROLES:
            raise ValueError(f"role {role!r} is not known; known: {', '.join(ROLES)}")
    return tuple(ROLES[role][0] for role in roles)
