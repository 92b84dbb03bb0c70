"""Token rows in a file that is mapped into memory: what is held are the rows' lengths, whatever the corpus's size.

A folder of `ids.bin` (16 bits a token where the vocabulary allows, else 32), `mask.bin` (a bit a token, each row from a
byte of its own; none where all tokens are supervised), `units.bin` (a byte a token, where units were found), `rows.npy`
(lengths and supervised tokens) and `tokens.json`.
It is written under a temporary name and renamed, so that a folder of that name is whole. `key` says what the rows were
made of: a file with another key is written anew. Leaves to others where rows come from and which parts make a window.

N rows.
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from handscroll.model.checkpoint import replacing
from handscroll.training.batch import TokenRow
from handscroll.training.token_rows import RowsDigest, as_arrays, learnt

IDS, MASK, UNITS, ROWS, ABOUT = "ids.bin", "mask.bin", "units.bin", "rows.npy", "tokens.json"
VERSION = 1
BUFFER = 1 << 20


class TokenFile:
    """The rows of a folder that `write` made, read only as far as they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError for a folder whose files don't fit together."""
        about = read_about(folder)
        if about is None:
            raise ValueError(f"{folder} holds no rows of tokens: write them anew")
        self.about: Mapping[str, Any] = about
        self.is_masked = bool(about["masked"])
        counts = np.load(folder / ROWS, allow_pickle=False)
        self.lengths_N, self.learnt_N = np.ascontiguousarray(counts[0]), np.ascontiguousarray(counts[1])
        self._starts_N = np.cumsum(self.lengths_N) - self.lengths_N
        bytes_N = -(-self.lengths_N // 8)
        self._mask_starts_N = np.cumsum(bytes_N) - bytes_N
        dtype, tokens = np.dtype(str(about["dtype"])), int(self.lengths_N.sum())
        has_units = bool(about.get("units"))
        expected = {IDS: tokens * dtype.itemsize} | ({MASK: int(bytes_N.sum())} if self.is_masked else {})
        expected |= {UNITS: tokens} if has_units else {}
        for name, size in expected.items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{folder / name} should have {size:,} bytes: delete {folder}, it is made anew")
        self._ids = np.memmap(folder / IDS, dtype, "r")
        self._mask = np.memmap(folder / MASK, np.uint8, "r") if self.is_masked else None
        self._units = np.memmap(folder / UNITS, np.uint8, "r") if has_units else None

    def part(self, row: int, start: int, stop: int) -> TokenRow:
        first = int(self._starts_N[row])
        ids = np.asarray(self._ids[first + start : first + stop], dtype=np.int64)
        units = None if self._units is None else np.asarray(self._units[first + start : first + stop])
        if self._mask is None:
            return TokenRow(ids, None, units)
        first = int(self._mask_starts_N[row])
        bits = np.unpackbits(self._mask[first + start // 8 : first + -(-stop // 8)], bitorder="little")
        return TokenRow(ids, bits[start % 8 : start % 8 + stop - start].astype(bool), units)

    def digest(self) -> str:
        return str(self.about["digest"])

    @classmethod
    def write(
        cls,
        folder: Path,
        rows: Iterable[TokenRow],
        vocab_size: int,
        key: str,
        notes: Callable[[], Mapping[str, Any]] = dict,
    ) -> TokenFile:
        """Writes all rows as they come; only their lengths stay in memory. An older folder of that name is replaced.

        `notes` is asked, once all rows have come, for JSON values that are kept for whoever opens the folder again.
        Raises ValueError where nothing can be written, where there are no rows, and where only some rows have a mask,
        or units.
        """
        dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        shutil.rmtree(folder, ignore_errors=True)
        lengths, counts, masked, units, digest = array("q"), array("q"), False, False, RowsDigest()
        with replacing(folder) as draft:
            files = ((draft / name).open("wb", BUFFER) for name in (IDS, MASK, UNITS))
            with next(files) as ids_file, next(files) as mask_file, next(files) as units_file:
                for row in map(as_arrays, rows):
                    if lengths and masked != (row.supervised is not None):
                        raise ValueError("some rows have a mask and others have none: give all of them one, or none")
                    if lengths and units != (row.units is not None):
                        raise ValueError("some rows have units and others have none: give all of them some, or none")
                    masked, units = row.supervised is not None, row.units is not None
                    if row.units is not None:
                        units_file.write(row.units.tobytes())
                    ids_file.write(np.asarray(row.ids).astype(dtype).tobytes())
                    if row.supervised is not None:
                        mask_file.write(np.packbits(row.supervised, bitorder="little").tobytes())
                    lengths.append(len(row.ids))
                    counts.append(learnt(row))
                    digest.add(row)
            if not lengths:
                raise ValueError("there are no rows: give a corpus that holds text")
            np.save(draft / ROWS, np.array([lengths, counts], dtype=np.int64))
            about = {"version": VERSION, "key": key, "dtype": dtype.str, "masked": masked, "units": units}
            about["digest"] = digest.finish()
            (draft / ABOUT).write_text(json.dumps(about | {"notes": dict(notes())}), encoding="utf-8")
        return cls(folder)

    @classmethod
    def opened(cls, folder: Path, key: str) -> TokenFile | None:
        """The rows that were written under the same key; None where there are none."""
        about = read_about(folder)
        return cls(folder) if about is not None and about["key"] == key else None


def read_about(folder: Path) -> Mapping[str, Any] | None:
    """What `tokens.json` says; None where it isn't there or of another version."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and about.get("version") == VERSION else None
