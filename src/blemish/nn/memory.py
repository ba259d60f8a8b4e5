"""A memory of normal embeddings that a network reads while it computes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blemish.nn.kmeans import spread

ROUNDS = 10  # of k-means
LEAST = 0.1  # of the mean usage: a row below it is forgotten
KEEP = 0.99  # of a row, and of its usage, at each write


def clusters_of(cells: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Unit vectors (M, D) -> `count` unit centres (count, D), and how many vectors each has.

    A centre that loses all its vectors starts again at the one that is represented worst.
    """
    centres, sizes = cells[spread(cells, count, generator)], torch.zeros(count)
    for _ in range(ROUNDS):
        best, nearest = (cells @ centres.T).max(1)
        sizes = torch.bincount(nearest, minlength=count).float()
        sums = torch.zeros_like(centres).index_add_(0, nearest, cells)
        centres = F.normalize(torch.where(sizes[:, None] > 0, sums, centres), dim=1)
        empty = (sizes == 0).nonzero()[: len(cells), 0]
        centres[empty] = cells[best.argsort()[: len(empty)]]
    return centres, sizes


class EmbeddingMemory(nn.Module):
    """Pulls every cell of an embedding towards normal cells that were stored: (B, D, h, w) -> the same shape.

    A cell q of unit length is read from its `nearest` rows: of softmax(cosine / temperature) the first weight behind
    them is taken off, or 1 / rows where that is more, and the rest sums to 1. So a row comes and goes smoothly: the
    hard shrinkage of MemAE (Gong et al., ICCV 2019, Eq. 7) jumps, and then rounding decides what is read. What was
    read, r, takes the cell's length, and

        phi' = phi + eta (r - phi),     eta = strength (floor + (1 - floor) sigmoid(gate)), per channel

    so that at full strength no cell gets past the memory by more than 1 - floor. Rows have no positions.

    Training writes (`write`): a row moves to the mean of the cells that it is nearest to, usage fades, and a row that
    is hardly used is forgotten: it starts again at the cell that is represented worst. The rest of the time the bank
    is only read. With `learned` rows are parameters instead, as in MemAE, and nothing is written.
    """

    def __init__(
        self,
        channels: int,
        rows: int = 64,
        *,
        nearest: int = 8,
        temperature: float = 0.1,
        floor: float = 0.5,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.nearest, self.temperature, self.floor, self.learned = min(nearest, rows), temperature, floor, learned
        self.gate = nn.Parameter(torch.zeros(channels))
        self.bank: Tensor
        bank = torch.zeros(rows, channels)
        if learned:
            self.bank = nn.Parameter(bank)
        else:
            self.register_buffer("bank", bank)
        self.register_buffer("usage", torch.zeros(rows))
        self.usage: Tensor

    @property
    def eta(self) -> Tensor:
        """(D,) share of the way to the memory at full strength, in (floor, 1)."""
        return self.floor + (1 - self.floor) * self.gate.sigmoid()

    @staticmethod
    def cells(phi: Tensor) -> Tensor:
        """(B, D, h, w) -> (B h w, D) float32 of unit length."""
        return F.normalize(phi.float().permute(0, 2, 3, 1).flatten(0, 2), dim=1)

    def weights(self, cells: Tensor) -> Tensor:
        """(M, D) -> (M, rows): what each row is read with; a row of weights sums to 1."""
        weight = F.softmax(cells @ F.normalize(self.bank, dim=1).T / self.temperature, 1)
        least = weight.new_full((1,), 1 / len(self.bank))
        if self.nearest < len(self.bank):  # the first weight that is not to be read
            least = weight.topk(self.nearest + 1, 1).values[:, -1:].clamp_min(1 / len(self.bank))
        weight = (weight - least).clamp_min(0) + 1e-6 * weight  # the last term: where all rows are equally near
        return weight / weight.sum(1, keepdim=True)

    def read(self, phi: Tensor) -> Tensor:
        """r: (B, D, h, w) -> the same, made of rows alone, every cell with its own length."""
        with torch.autocast(phi.device.type, enabled=False):  # cosines and their softmax in float32
            phi = phi.float()
            found = self.weights(self.cells(phi)) @ F.normalize(self.bank, dim=1)
            length = phi.square().sum(1, keepdim=True).add(1e-12).sqrt()
            height, width = int(phi.shape[2]), int(phi.shape[3])
            return found.reshape(-1, height, width, int(phi.shape[1])).permute(0, 3, 1, 2) * length

    def forward(self, phi: Tensor, strength: float = 1.0) -> Tensor:
        eta = (strength * self.eta)[:, None, None]
        return phi + eta * (self.read(phi) - phi)

    def terms(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Compactness and separateness (MNAD, Park et al., CVPR 2020, Eq. 6 and 7) of unit cells (M, D)."""
        with torch.autocast(cells.device.type, enabled=False):
            bank = F.normalize(self.bank.detach(), dim=1)
            order = (cells.detach() @ bank.T).topk(min(2, len(bank)), 1).indices
            first = (cells - bank[order[:, 0]]).square().sum(1)
            second = (cells - bank[order[:, -1]]).square().sum(1)
            # of distances, not of squares; the small number keeps the slope at 0 finite
            apart = F.relu((first + 1e-6).sqrt() - (second + 1e-6).sqrt() + 1)
        return first.mean(), apart.mean()

    @torch.no_grad()
    def start(self, cells: Tensor, per_write: int, generator: torch.Generator) -> None:
        """Fill the bank by k-means over unit cells (M, D); usage as if batches of `per_write` cells had come by."""
        centres, sizes = clusters_of(cells, len(self.bank), generator)
        self.bank.copy_(centres)
        self.usage.copy_(sizes / sizes.sum() * per_write / (1 - KEEP))

    @torch.no_grad()
    def write(self, cells: Tensor) -> None:
        """Move the rows towards unit cells (M, D); nothing in eval mode, nothing where rows are learned."""
        if not self.training or self.learned:
            return
        rows = len(self.bank)
        best, at = (cells @ self.bank.T).max(1)
        counts = torch.bincount(at, minlength=rows).to(cells.dtype)
        mean = torch.zeros_like(self.bank).index_add_(0, at, cells) / counts.clamp_min(1)[:, None]
        moved = F.normalize(KEEP * self.bank + (1 - KEEP) * mean, dim=1)
        self.bank.copy_(torch.where(counts[:, None] > 0, moved, self.bank))
        self.usage.mul_(KEEP).add_(counts)
        poor = (self.usage < LEAST * self.usage.mean()).nonzero()[: len(cells), 0]
        self.bank[poor] = cells[best.argsort()[: len(poor)]]
        self.usage[poor] = self.usage.mean()
