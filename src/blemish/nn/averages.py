"""Means of weights over the last steps of training, instead of the last weights (Izmailov et al., UAI 2018: SWA)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.optim.swa_utils import AveragedModel


class Averages(nn.Module):
    """Running means of all parameters of some modules. They are state, so a run that was killed resumes with them.

    Args:
        parts: modules whose parameters are averaged; they stay where they are.
        share: of the steps, the last ones; 0 = nothing is averaged.
    """

    def __init__(self, parts: Sequence[nn.Module], share: float) -> None:
        super().__init__()
        self.share = share
        self._parts = [nn.ModuleList(parts)]  # in a list: no part of the state
        self.means = AveragedModel(self._parts[0])

    def restart(self) -> None:
        """Forget all steps."""
        self.means.n_averaged.zero_()

    def add(self, progress: float) -> None:
        """Called after each step: takes in the weights where it is one of the last."""
        if progress >= 1 - self.share:
            self.means.update_parameters(self._parts[0])

    def take(self) -> bool:
        """Put the means where the weights are; False where there are none."""
        if not self.means.n_averaged:
            return False
        self._parts[0].load_state_dict(self.means.module.state_dict())
        return True


@contextmanager
def measured_anew(norm: nn.BatchNorm1d) -> Iterator[None]:
    """Inside, a batch norm's statistics become means over all batches that pass; those of other weights are gone."""
    usual = norm.momentum
    norm.reset_running_stats()
    norm.momentum = None
    norm.train()
    try:
        yield
    finally:
        norm.momentum = usual
        norm.eval()
