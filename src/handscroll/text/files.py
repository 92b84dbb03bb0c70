"""Writes several text files of a folder so that an interruption leaves none of them half-written.

Knows temporary names and renames. Leaves to others what the files hold.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_files(folder: str | Path, files: Mapping[str, Iterable[str]]) -> None:
    """Write each file, given by name and pieces of text, in UTF-8.

    All are written under temporary names first and renamed at the end. Raises ValueError when the folder can't be
    made or written; what was there before then stays.
    """
    folder = Path(folder)
    waiting = {folder / name: folder / f".{name}.{os.getpid()}.tmp" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, temporary in waiting.items():
            # The same bytes on every system: no translation of line ends.
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.writelines(files[path.name])
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in waiting.items():
            os.replace(temporary, path)
    except OSError as error:
        reason = f"{folder} can't be written: {error.strerror}"
        raise ValueError(f"{reason}. Choose a folder that you may write, on a disk with room.") from error
    finally:
        if folder.is_dir():
            for temporary in waiting.values():
                temporary.unlink(missing_ok=True)
