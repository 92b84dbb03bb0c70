"""Several processes of one command on this machine, as `torchrun` starts them: the first shows and prints, all compute.

A process that fails ends the others, and its exit code is the command's. What is wrong for all of them each says.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from handscroll.cli.commands import FAILED


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends a process that was started among others with its exit code as soon as the block raises SystemExit.

    Taking down the interpreter now and then aborts in threads of torch.distributed, and the code would be lost.
    """
    try:
        yield
    except SystemExit as end:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def launch(count: int, arguments: Sequence[str]) -> int:
    """Runs `python -m handscroll ARGUMENTS...` in `count` processes and returns the exit code."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Each would take all cores; and the launcher's own report of a failure would bury the command's one line.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        run_id=str(os.getpid()),
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "handscroll", *arguments)
    except ChildFailedError as error:
        # One process's mistake ends the others by a signal, which says nothing of the reason.
        codes = [failure.exitcode for failure in error.failures.values()]
        return max(codes) if max(codes) > 0 else FAILED
    return 0
