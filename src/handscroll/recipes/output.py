"""Folders to write to, looked at before work begins: hours of training must not end at a missing permission."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Raises ValueError unless files can be written to `folder`, which need not exist. Leaves nothing behind."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder, or the name of a new one")
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(f"{folder} can't be written ({error.strerror}): give another folder") from error
