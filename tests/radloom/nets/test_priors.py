"""A net of sigmoid outputs begins at how often each class occurs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.dataset import cache_case
from radloom.nets.priors import LEAST, class_shares, start_at_prior


def test_shares_are_those_of_all_voxels(tmp_path: Path) -> None:
    cases = []
    for name, slices in (("a", 2), ("b", 6)):
        labels = np.zeros((slices, 4, 5), np.uint8)
        labels[0, 0, :3], labels[1, 1] = 1, 2
        image = np.zeros(labels.shape, np.float32)
        cases.append(
            cache_case(
                tmp_path / name, name, name, "c", (1.0, 1.0), 3, lambda i=image, n=labels: (i, n, (1.0, 1.0, 2.0))
            )
        )
    assert class_shares(cases).tolist() == pytest.approx([6 / 160, 10 / 160, 0])


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(channels=(4, 6, 8), deep_supervision=True),
        Architecture("unetplusplus", channels=(4, 6, 8), deep_supervision=True),
        Architecture("transunet", channels=(4, 6, 8)),
    ],
    ids=lambda a: a.kind,
)
def test_all_logits_begin_at_the_classes_log_odds(architecture: Architecture) -> None:
    shares = torch.tensor([0.2, 1e-3, 0.0], dtype=torch.float64)
    net = build_net(architecture, 3).train()
    start_at_prior(net, shares)
    for layer in net.logit_layers():
        nn.init.zeros_(layer.weight)  # leaves the biases alone
    logits = net(torch.rand(2, 1, *[2 * multiple for multiple in net.multiple]))
    for level in logits if isinstance(logits, list) else [logits]:
        found = level.sigmoid().amax(dim=(0, 2, 3)).tolist()
        assert found == pytest.approx([0.2, 1e-3, LEAST], rel=1e-5)
