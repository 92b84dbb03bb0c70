"""Text: tokenizers, chat templates, formats, packing and the chronicle."""

from handscroll.text.tokenizer import Encoding, StreamDecoder, Tokenizer

__all__ = ["Encoding", "StreamDecoder", "Tokenizer"]
