"""A run that was killed with SIGKILL and resumed equals an uninterrupted one: weights, moments, losses, to the bit.

This file is also the program that is killed: `python test_resume.py FOLDER` trains and prints its steps.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from handscroll.model import ModelConfig, Transformer
from handscroll.training import (
    OPTIMIZERS,
    SFT,
    PackedSource,
    Progress,
    TokenRow,
    TrainOptions,
    WarmupStableDecay,
    checkpoint,
    train,
)

STEPS, KILLED_AT = 30, 13
CHECKPOINT_EVERY = 5


def make_source() -> PackedSource:
    rng = np.random.default_rng(0)
    documents = [np.resize(rng.integers(1, 50, 4), length) for length in rng.integers(4, 60, 24)]
    return PackedSource(
        [TokenRow(ids, np.arange(len(ids)) % 5 > 1) for ids in documents], 32, 2, seed=9, accumulation=2
    )


def run(folder: Path, optimizer: str, resume: bool = False) -> Iterator[Progress]:
    config = ModelConfig(50, 16, 2, 2, 1, 8, 24, 64, qkv_bias=True, tied_embeddings=True)
    options = TrainOptions(
        STEPS, seed=3, accumulation=2, optimizer=OPTIMIZERS[optimizer](learning_rate=0.02),
        schedule=WarmupStableDecay(3), checkpoint_every=CHECKPOINT_EVERY, activation_checkpointing=True,
    )  # fmt: skip
    return train({"model": Transformer(config)}, SFT(), make_source(), options, folder, resume=resume)


def be_killed(folder: Path) -> None:
    """Trains with every optimizer at once, each in its own folder, and says how far it is."""
    torch.set_num_threads(1)
    for steps in zip(*(run(folder / name, name) for name in OPTIMIZERS), strict=True):
        print(steps[0].step, flush=True)
        time.sleep(0.04)


def test_epochs_are_crossed_after_the_kill() -> None:
    source = make_source()
    source.windows(STEPS - 1, 1)
    ends = [number / (2 * 2) for number in source._epoch_starts[1:]]
    assert sum(KILLED_AT < end < STEPS for end in ends) >= 2
    # Mid-epoch: neither the last checkpoint nor the kill is at an epoch's end.
    assert not {KILLED_AT - KILLED_AT % CHECKPOINT_EVERY, KILLED_AT} & set(ends)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each optimizer, left by a process that was killed after step 13 or little later."""
    folder = tmp_path_factory.mktemp("killed")
    with subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()).strip() != str(KILLED_AT):
            assert line, "the run ended before it could be killed"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    return folder


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_and_resumed_equals_uninterrupted(killed: Path, optimizer: str, tmp_path: Path) -> None:
    folder = killed / optimizer
    (newest,) = checkpoint.checkpoints(folder)[-1:]
    assert 10 <= int(newest.name.removeprefix("step-")) < STEPS
    expected = list(run(tmp_path, optimizer))
    resumed = list(run(folder, optimizer, resume=True))
    assert resumed[-1].step == STEPS
    assert [p.loss for p in resumed] == [p.loss for p in expected[-len(resumed) :]]
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        files = [path / f"step-{STEPS:06d}" / name for path in (folder, tmp_path)]
        assert files[0].read_bytes() == files[1].read_bytes()
    logs = [[json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()] for path in (folder, tmp_path)]
    for log in logs:
        for line in log:
            for time_field in ("seconds", "eta_seconds", "tokens_per_second", "waiting"):
                del line[time_field]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(range(1, STEPS + 1))


if __name__ == "__main__":
    be_killed(Path(sys.argv[1]))
