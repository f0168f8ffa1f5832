"""A net is less sure where it should be: on noise and anatomy that its training didn't have."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import ModelDescription
from radloom.nets.inplane import to_input
from radloom.nets.prediction import Member, Predictor, Settings
from radloom.nets.uncertainty import assess
from radloom.phantoms import Phantom, Scanner, draw_anatomy, make_phantom
from radloom.segmentation_metrics import compare_labels
from radloom.uncertainty_scores import ClassUncertainty

DESCRIPTION = ModelDescription(
    name="small",
    classes={1: "organ", 2: "tumour"},
    spacing=(4.0, 4.0),
    hu_window=(-160.0, 240.0),
    architecture=Architecture(channels=(8, 16, 32), dropout=0.2),
)

EPOCHS = 10


def phantom(seed: int) -> Phantom:
    rng = np.random.default_rng([30_000, seed])
    return make_phantom(draw_anatomy(rng), Scanner((4.0, 4.0, 8.0), 2.0, 8.0), rng)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A net trained for seconds on the slices of 16 patients, by cross entropy."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    patients = [phantom(1000 + seed) for seed in range(16)]
    images = torch.from_numpy(np.concatenate([one.image for one in patients]))
    labels = torch.from_numpy(np.concatenate([one.labels for one in patients])).long()
    images = nn.functional.pad(to_input(images, DESCRIPTION.hu_window, None)[:, None], (0, -images.shape[2] % 4))
    net = build_net(DESCRIPTION.architecture, DESCRIPTION.channels_out)
    net.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    batches = [chosen for _ in range(EPOCHS) for chosen in torch.randperm(len(images)).split(16)]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=len(batches))
    for chosen in batches:
        logits = net(images[chosen])[..., : labels.shape[2]]
        loss = nn.functional.cross_entropy(logits, labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
    return Predictor([Member("small", net, DESCRIPTION)], Settings(device="cpu"))


def noisy(one: Phantom) -> Phantom:
    noise = np.random.default_rng(0).normal(0, 100, one.image.shape)
    return replace(one, image=(one.image + noise).astype(np.float32))


def upside_down(one: Phantom) -> Phantom:
    """The spine in front, the organ on the patient's other side in the picture."""
    return replace(one, image=one.image[:, ::-1].copy(), labels=one.labels[:, ::-1].copy())


def organ(predictor: Predictor, one: Phantom) -> ClassUncertainty:
    return assess(predictor, one.image, one.spacing, samples=8)[0]["organ"]


@pytest.mark.parametrize("change", [noisy, upside_down])
def test_scores_are_worse_out_of_distribution(predictor: Predictor, change) -> None:
    """Each of three patients compared with himself, by every score (docs/segmentation.md has more kinds of change)."""
    for seed in range(3):
        own = phantom(seed)
        inside, outside = organ(predictor, own), organ(predictor, change(own))
        assert outside.pairwise_dice < inside.pairwise_dice, seed
        assert outside.volume_cv > inside.volume_cv, seed
        assert outside.epistemic > inside.epistemic, seed


def test_the_net_finds_the_organ(predictor: Predictor) -> None:
    """Else the scores above say nothing."""
    one = phantom(0)
    found = compare_labels(one.labels, predictor.labels(one.image, one.spacing), one.spacing, DESCRIPTION.classes)
    assert found[0].dice > 0.85


def test_the_same_scan_has_the_same_scores_again(predictor: Predictor) -> None:
    assert organ(predictor, phantom(1)) == organ(predictor, phantom(1))
