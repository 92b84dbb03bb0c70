"""A run's figures for TensorBoard: `tensorboard --logdir OUT/tensorboard` shows them while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from handscroll.training import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD = "tensorboard"


class TensorBoardLog:
    """A callback of the trainer. Steps that a resumed run takes again replace what was logged of them."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __call__(self, progress: Progress) -> None:
        if self._writer is None:
            # Here and not above: importing it takes two seconds.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=progress.step)
        values = {
            "loss/training": progress.loss,
            "learning_rate": progress.learning_rate,
            "gradient_norm": progress.grad_norm,
            "tokens_per_second": progress.tokens_per_second,
        }
        values |= {f"metrics/{name}": value for name, value in progress.metrics.items()}
        if progress.evaluation is not None and progress.evaluation.step == progress.step:
            values["loss/evaluation"] = progress.evaluation.loss
            values["perplexity/evaluation"] = progress.evaluation.perplexity
            values |= {f"{name}/evaluation": value for name, value in progress.evaluation.metrics.items()}
        for name, value in values.items():
            self._writer.add_scalar(name, value, progress.step)
        if progress.step == progress.steps:
            self._writer.close()
        else:
            self._writer.flush()
