"""Training by several processes, one a GPU, that torchrun starts; without it a team of one.

Every process takes its share of each batch, and DistributedDataParallel averages the gradients, so that N processes
with batches of b learn what one process learns with batches of N b, but for the order of the sums, a soft Dice over
the batch, which is that of each process' share, and batch normalisation on a CPU, which sees that share as well (on
CUDA it sees the whole batch: SyncBatchNorm).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Team:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @property
    def cuda(self) -> bool:
        """Whether the net is on a GPU."""
        return self.device.startswith("cuda")


def join_team(device: str) -> Team:
    """The team that torchrun made, by its environment variables; `device` is auto, cpu or cuda.

    On CUDA each process takes a card of its own that is free, and waits where too few are. Raises CohortError for a
    CUDA that isn't there, and for fewer cards than processes.
    """
    from radloom.nets.devices import claim_card, claim_card_of_team
    from radloom.nets.prediction import choose_device

    device = choose_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        if device == "cuda":
            torch.cuda.set_device(claim_card())
        return Team(device=device)
    if device == "cuda":
        # All processes that one torchrun has started on this machine, and no others, have this in common.
        team = f"{os.environ.get('TORCHELASTIC_RUN_ID', '')[:64]}-{os.getppid()}"
        card = claim_card_of_team(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), team)
        torch.cuda.set_device(card)
        device = f"cuda:{card}"
    torch.distributed.init_process_group("nccl" if device != "cpu" else "gloo")
    return Team(int(os.environ["RANK"]), world, device)


def leave_team(team: Team) -> None:
    """End the exchange between the processes."""
    if team.world > 1:
        torch.distributed.destroy_process_group()


def share_net(team: Team, net: nn.Module) -> nn.Module:
    """The net whose gradients are averaged over the team; it has the weights of `net`, which stays as it is."""
    if team.world == 1:
        return net
    return nn.parallel.DistributedDataParallel(net, device_ids=[torch.device(team.device).index] if team.cuda else None)


def share_buffers(team: Team, net: nn.Module) -> None:
    """Give all processes the first one's buffers: on a CPU batch normalisation counts each process' own share."""
    if team.world > 1:
        for buffer in net.buffers():
            torch.distributed.broadcast(buffer, src=0)


def wait(team: Team) -> None:
    """Wait for the others."""
    if team.world > 1:
        torch.distributed.barrier()


def sum_over(team: Team, values: torch.Tensor) -> torch.Tensor:
    """The sum of the team's values; the tensor itself for a team of one. No gradient flows through it."""
    if team.world == 1:
        return values
    summed = values.detach().clone()
    torch.distributed.all_reduce(summed)
    return summed


def gather(team: Team, value: Any) -> list[Any]:
    """What every process has, in the order of their ranks, for all of them."""
    if team.world == 1:
        return [value]
    found: list[Any] = [None] * team.world
    torch.distributed.all_gather_object(found, value)
    return found
