"""How much memory this process may still take: of the machine, within its container's limit, or of an accelerator.

A container sees the machine's memory but is stopped at its control group's limit, so the smaller one counts.
https://docs.kernel.org/admin-guide/cgroup-v2.html#memory and .../cgroup-v1/memory.html
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch


class GroupFiles(NamedTuple):
    """Where one version of control groups keeps its numbers."""

    mount: str
    limit: str
    usage: str
    # Cached pages of files count as usage, but are given back when memory gets short.
    reclaimable: str


VERSIONS = {
    1: GroupFiles("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: GroupFiles(".", "memory.max", "memory.current", "inactive_file"),
}


def available_memory(device: torch.device | str = "cpu", root: Path = Path("/")) -> int | None:
    """Bytes that can still be allocated on `device`; None where the system doesn't say. `root` is where /proc lies."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [size for size in (_machine(root), _control_group(root)) if size is not None]
    return max(0, min(known)) if known else None


def _machine(root: Path) -> int | None:
    """Linux says what is free once caches are dropped; elsewhere all of the machine's memory is the best guess."""
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
        return None
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _control_group(root: Path) -> int | None:
    """What is left below the tightest limit among this process's memory group and the groups above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        files = VERSIONS[1 if controllers else 2]
        mount = root / "sys/fs/cgroup" / files.mount
        # In a container the mount often starts at its own group, and the path that the host knows isn't there.
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            left.append(_left_in(folder, files))
            if folder == mount:
                break
    return min((size for size in left if size is not None), default=None)


def _left_in(folder: Path, files: GroupFiles) -> int | None:
    try:
        limit = (folder / files.limit).read_text().strip()
        if limit == "max":
            return None
        usage = int((folder / files.usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(limit) - usage + int(stat.get(files.reclaimable, 0))
    except (OSError, ValueError):
        return None
