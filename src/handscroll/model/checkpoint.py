"""Hugging Face folders in and out: config.json and weights become a `Transformer`, and the other way round.

Knows how to check a folder against a model and how to replace a folder's files without leaving half of them. Leaves
key and tensor names to `families/`, file formats to `weight_files.py`, and the tokenizer's files to `text/`. What
loading found and Handscroll doesn't use rides along in `Transformer.source`, so that saving gives it back.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handscroll.model.columns import LinearByColumns, lay
from handscroll.model.config import ModelConfig
from handscroll.model.families import Family, Source, family_for, family_of
from handscroll.model.footprint import require
from handscroll.model.heads import VocabularyHead
from handscroll.model.transformer import Transformer
from handscroll.model.weight_files import (
    SHARD_BYTES,
    MissingCheckpoint,
    listed,
    read_json,
    read_shapes,
    read_weights,
    stale_weights,
    write_json,
    write_weights,
)

CONFIG = "config.json"
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# What a model and its tokenizer need; never Python files. Older weights only where there are no others.
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt")
OLDER_WEIGHTS = ("pytorch_model*.bin",)
HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def resolve(folder_or_id: str | Path) -> Path:
    """A local folder as it is; else a hub id such as "org/name" is downloaded (or found in the local cache).

    "org/name@revision" is a branch, a tag or a commit. Where files are kept, with what token they are fetched and from
    where is said by the hub client's own variables: HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
    Raises MissingCheckpoint where it is neither, or where the hub can't be reached.
    """
    folder = Path(folder_or_id).expanduser()
    if folder.is_dir():
        return folder
    asked = HUB_ID.fullmatch(str(folder_or_id))
    if asked is None or folder.exists():
        raise MissingCheckpoint(
            f"{folder_or_id} is not a folder: give a folder that holds {CONFIG}, or org/name of a hub"
        )
    # Only here: a local folder needs no network client.
    from huggingface_hub import snapshot_download

    def fetch(patterns: Iterable[str]) -> Path:
        return Path(snapshot_download(asked["name"], revision=asked["revision"], allow_patterns=list(patterns)))

    try:
        found = fetch(HUB_FILES)
        return found if any(found.glob("*.safetensors")) else fetch((*HUB_FILES, *OLDER_WEIGHTS))
    # The client raises its own errors, those of the network beneath it, and ValueErrors: the way out is the same.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise MissingCheckpoint(
            f"{folder_or_id} is neither a folder here nor could it be fetched from the hub ({reason}): "
            "download it where there is a network, and give the path of the folder"
        ) from error


def load_model(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    finite: bool = True,
) -> Transformer:
    """Reads a folder of a known family; tensors keep the file's dtype unless `dtype` is given.

    Raises MissingCheckpoint for what isn't there; ValueError for a family or a config that isn't supported, for a
    damaged file, for tensors that are missing, unexpected or of another shape than config.json says, and, unless
    `finite` is False, for a tensor that holds NaN or infinity, here or in `dtype`; DoesNotFit where the weights need
    more memory than there is.
    """
    if dtype is not None and dtype not in WEIGHT_DTYPES:
        raise ValueError(f"dtype={dtype}: weights are read as one of {_named(WEIGHT_DTYPES)}")
    folder = Path(folder)
    family, config, source_config = read_config(folder)
    # Without storage and without drawing: every weight comes from the file.
    with torch.device("meta"):
        model = Transformer(config, seed=None)
    tensors = family.unpack(read_weights(folder), config)
    extra = _take_ignored(family, model, tensors)
    tied_head = _take_tied_head(folder, family, config, tensors)
    names = _check_tensors(folder, family, model, tensors)

    source_dtype = tensors[family.file_name("embedding.weight")].dtype
    require(
        sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in tensors.values()),
        f"the weights of {folder}",
        device,
    )
    state = {}
    for name, own in names.items():
        state[own] = tensors.pop(name).to(device=device, dtype=dtype)
        if finite:
            _check_finite(folder, name, state[own])
    model.load_state_dict(state, assign=True)
    model.source = Source(source_config, source_dtype, tied_head, extra)
    return model


class Shapes(NamedTuple):
    """What a folder holds, known from its headers: `parameters` by the names of `Transformer`, on the meta device."""

    family: Family
    config: ModelConfig
    parameters: dict[str, Tensor]
    stored_bytes: int


def load_shapes(folder: Path) -> Shapes:
    """What `load_model` would read, without reading the numbers. Raises what it raises, but of numbers and memory."""
    family, config, _ = read_config(folder)
    with torch.device("meta"):
        model = Transformer(config, seed=None)
    stored = read_shapes(folder)
    tensors = family.unpack(stored, config)
    _take_ignored(family, model, tensors)
    if config.tied_embeddings:
        tensors.pop(family.file_name("head.weight"), None)
    names = _check_tensors(folder, family, model, tensors)
    trained = dict(model.named_parameters())
    parameters = {own: tensors[name] for name, own in names.items() if own in trained}
    return Shapes(family, config, parameters, sum(tensor.nbytes for tensor in stored.values()))


def lay_by_columns(model: Transformer) -> None:
    """Lays matrices out input by input instead of output by output (mutates), the head's with them; no number changes.

    For a model that generates on a CPU in float32: a single token's products then read memory in its order
    (`columns.py`). Products of many tokens take the same time either way; in 16 bits PyTorch is faster as it was, and
    nothing is done.
    """
    if model.embedding.weight.dtype != torch.float32:
        return
    for module in list(model.layers.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, LinearByColumns(child))
    if isinstance(model.head, VocabularyHead):
        lay(model.embedding.weight if model.head.weight is None else model.head.weight)


def save_model(
    model: Transformer,
    folder: str | Path,
    *,
    extra_config: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and safetensors; whatever else `folder` holds stays. `extra_config` goes into config.json.

    A model that was loaded is written as it was found: names, dtypes, unknown keys; a new one as the first family that
    can express it. A new folder appears whole or not at all; in an existing one each file is replaced whole.
    Raises ValueError where no family can express the model or the folder can't be written.
    """
    source = model.source
    family = family_for(model.config) if source is None else family_of(source.config)
    config = family.write(model.config, None if source is None else source.config)
    dtype = model.embedding.weight.dtype
    if source is None or source.dtype != dtype:
        # Readers take the config's word for the dtype: an old one would cut the weights down.
        config["dtype" if "dtype" in config else "torch_dtype"] = _named([dtype])
    config.update(extra_config or {})
    tensors = {family.file_name(name): tensor for name, tensor in model.state_dict().items()}
    if source is not None:
        tensors |= source.extra_tensors
    tensors = family.pack(tensors, model.config)
    if source is not None and source.stores_tied_head and model.config.tied_embeddings:
        tensors[family.file_name("head.weight")] = model.embedding.weight.detach().clone()
    with replacing(Path(folder)) as draft:
        write_weights(draft, tensors, shard_bytes)
        write_json(draft / CONFIG, config)


def read_config(folder: Path) -> tuple[Family, ModelConfig, dict[str, Any]]:
    """The family, our config and the whole of config.json. MissingCheckpoint and ValueError name the file."""
    if not folder.is_dir():
        raise MissingCheckpoint(f"{folder} is not a folder: give a folder that holds {CONFIG} and weights")
    path = folder / CONFIG
    if not path.is_file():
        # A run's own folder is the one that is named by mistake.
        inside = folder / "model"
        way = inside if (inside / CONFIG).is_file() else "the folder of a model, not one above or below it"
        raise MissingCheckpoint(f"{folder} holds no {CONFIG}: give {way}")
    content = read_json(path)
    try:
        family = family_of(content)
        return family, family.read(content), content
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to write to; when the block ends well its files move to `folder`, else nothing has changed."""
    exists = folder.is_dir()
    draft = (folder if exists else folder.parent) / f".{folder.name}-{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        try:
            yield draft
            if exists:
                written = {path.name for path in draft.iterdir()}
                stale = stale_weights(folder, written)
                for name in sorted(written):
                    os.replace(draft / name, folder / name)
                for path in stale:
                    path.unlink(missing_ok=True)
            else:
                os.rename(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise ValueError(f"{folder} can't be written ({error}): give another folder or free some space") from error


def _take_tied_head(folder: Path, family: Family, config: ModelConfig, tensors: dict[str, Tensor]) -> bool:
    """Takes out the head that some files hold although it is tied (mutates `tensors`); whether there was one."""
    head, embedding = family.file_name("head.weight"), family.file_name("embedding.weight")
    if not config.tied_embeddings or head not in tensors or embedding not in tensors:
        return False
    if not torch.equal(tensors.pop(head), tensors[embedding]):
        raise ValueError(
            f"{folder}: config.json ties {head} to {embedding}, but the file holds two different ones: "
            "set tie_word_embeddings to false to use both"
        )
    return True


def _take_ignored(family: Family, model: Transformer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes out what can be derived, or belongs to another head, and is no weight of the model (mutates `tensors`)."""
    own = {family.file_name(name) for name in model.state_dict()}
    spare = [name for name in tensors if re.search(family.ignored, name) and name not in own]
    return {name: tensors.pop(name) for name in spare}


def _check_tensors(folder: Path, family: Family, model: Transformer, found: Mapping[str, Tensor]) -> dict[str, str]:
    """The model's own name of each tensor of the file. ValueError where they don't belong together."""
    names = {family.file_name(name): name for name in model.state_dict()}
    own_tensors = model.state_dict()
    expected = {name: own_tensors[own] for name, own in names.items()}
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        parts = [
            f"{what} {listed(names)}" for what, names in (("lacks", missing), ("holds unexpected", unexpected)) if names
        ]
        raise ValueError(f"{folder}: the weights don't belong to its config.json: the file {'; and '.join(parts)}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, but config.json asks for {tuple(expected[name].shape)}"
            raise ValueError(f"{folder}: {name} has shape {shapes}: use the config.json that belongs to the weights")
        if tensor.dtype not in WEIGHT_DTYPES:
            allowed = _named(WEIGHT_DTYPES)
            raise ValueError(
                f"{folder}: {name} is {tensor.dtype}; supported: {allowed}: use the unquantized checkpoint"
            )
    return names


def _check_finite(folder: Path, name: str, tensor: Tensor) -> None:
    """One pass, and no copy: NaN is carried on by the smallest and the largest number, infinity is one of them."""
    low, high = torch.aminmax(tensor)
    if not (low.isfinite() and high.isfinite()):
        raise ValueError(
            f"{folder}: {name} holds {int((~tensor.isfinite()).sum())} numbers that are NaN or infinite as "
            f"{_named([tensor.dtype])}: take an earlier checkpoint or another dtype; in Python, finite=False loads it "
            "all the same"
        )


def _named(dtypes: Iterable[torch.dtype]) -> str:
    """As config.json and users write them: "float32, bfloat16"."""
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
