"""How the losses of a batch's items become one number: their mean, or one that looks after the worst centre.

A weighting has weights of the centres, which are part of a checkpoint. Losses and centres' numbers are (batch,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from radloom.nets.distributed import Team, sum_over


class Mean:
    """The mean over the items."""

    def __init__(self, centres: Sequence[str], team: Team) -> None:
        self.centres, self.team = list(centres), team
        self.weights = torch.ones(len(self.centres)) / len(self.centres)

    def __call__(self, losses: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """One loss of the items' losses."""
        return losses.mean()

    def validated(self, dice: Mapping[str, float]) -> None:
        """Take note of the validation's Dice by centre."""


class GroupDRO(Mean):
    """Group distributionally robust optimisation (Sagawa et al., ICLR 2020, algorithm 1), the groups being centres.

    With every batch the weight q of each centre in it is multiplied by exp(step x its mean loss), the weights are
    divided by their sum, and the loss is the sum of q x mean loss over the centres in the batch. The weights are
    computed on the CPU in float64.
    """

    def __init__(self, centres: Sequence[str], team: Team, step: float) -> None:
        super().__init__(centres, team)
        self.step = step
        self.weights = self.weights.double()

    def __call__(self, losses: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        masks = (centre[None, :] == torch.arange(len(self.centres), device=losses.device)[:, None]).to(losses.dtype)
        sums = masks @ losses
        # Over all processes: each of them must go on with the same weights.
        both = sum_over(self.team, torch.stack([sums.detach(), masks.sum(dim=1)])).double().cpu()
        there = both[1] > 0
        mean = torch.where(there, both[0] / both[1].clamp(min=1), torch.zeros_like(both[0]))
        weights = self.weights * torch.exp(self.step * mean)
        self.weights = weights / weights.sum()
        share = (self.weights / both[1].clamp(min=1) * there).to(losses)
        # DistributedDataParallel divides the gradients' sum by the number of processes.
        return (share * sums).sum() * self.team.world


class WorstCentre(Mean):
    """Items of the centre with the lowest validation Dice count `factor` times as much as the others."""

    def __init__(self, centres: Sequence[str], team: Team, factor: float) -> None:
        super().__init__(centres, team)
        self.factor = factor

    def __call__(self, losses: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        weights = self.weights.to(losses)[centre]
        total = sum_over(self.team, weights.sum()) / self.team.world
        return (weights * losses).sum() / total

    def validated(self, dice: Mapping[str, float]) -> None:
        known = {name: value for name, value in dice.items() if name in self.centres and value == value}
        worst = min(known, key=lambda name: (known[name], name), default=None)
        raw = torch.tensor([self.factor if name == worst else 1.0 for name in self.centres])
        self.weights = raw / raw.sum()


def make_weighting(name: str, centres: Sequence[str], team: Team, step: float, factor: float) -> Mean:
    """The weighting `none`, `group_dro` or `worst_centre`. Raises ValueError for another name."""
    if name == "none":
        return Mean(centres, team)
    if name == "group_dro":
        return GroupDRO(centres, team, step)
    if name == "worst_centre":
        return WorstCentre(centres, team, factor)
    raise ValueError(f"robust is none, group_dro or worst_centre, not {name!r}")
