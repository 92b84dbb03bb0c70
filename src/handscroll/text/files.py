"""Writes several files of a folder so that an interruption leaves none of them half-written.

Knows temporary names and renames. Leaves to others what the files hold.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_files(folder: str | Path, files: Mapping[str, Iterable[str | bytes]]) -> None:
    """Write each file, given by name and pieces: text, which is written in UTF-8, or bytes.

    All are written under temporary names first and renamed at the end. Raises ValueError when the folder can't be
    made or written; what was there before then stays.
    """
    folder = Path(folder)
    waiting = {folder / name: folder / f".{name}.{os.getpid()}.tmp" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, temporary in waiting.items():
            with temporary.open("wb") as file:
                file.writelines(piece.encode() if isinstance(piece, str) else piece for piece in files[path.name])
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
