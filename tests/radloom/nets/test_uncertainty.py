"""Mean and variances over samples, and the case's scores: against float64, closed forms, and slab by slab."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radloom.nets.uncertainty import (
    CaseUncertainty,
    Moments,
    label_of,
    passes,
    split_variance,
)
from radloom.segmentation_metrics import compare_labels
from radloom.uncertainty_scores import ClassUncertainty

NAMES = {1: "liver", 2: "spleen"}


def samples(seed: int, count: int, outputs: str, shape: tuple[int, int, int] = (5, 6, 7)) -> torch.Tensor:
    """Probabilities (count, z, y, x, channels) that agree with each other in part."""
    generator = torch.Generator().manual_seed(seed)
    common = 2 * torch.randn((1, *shape, 3 if outputs == "softmax" else 2), generator=generator)
    logits = common + torch.randn((count, *common.shape[1:]), generator=generator)
    return logits.softmax(dim=-1) if outputs == "softmax" else logits.sigmoid()


def scores_of(values: torch.Tensor, outputs: str = "softmax", height: int = 5) -> dict[str, ClassUncertainty]:
    case = CaseUncertainty(NAMES, outputs, 0.002)
    for start in range(0, values.shape[1], height):
        case.add(iter(values[:, start : start + height]))
    return case.scores()


@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from(["softmax", "sigmoid"]))
@settings(max_examples=25, deadline=None)
def test_variances_are_those_in_float64_and_add_up(seed, count, outputs) -> None:
    """Probabilities in float32 carry 6e-8 each, and a dozen updates no more than 1e-6."""
    values = samples(seed, count, outputs)
    moments = Moments()
    for one in values:
        moments.add(one)
    exact = values.double()
    mean = exact.mean(dim=0)
    parts = [moments.at(torch.full(values.shape[1:-1], c)) for c in range(values.shape[-1])]
    variance = torch.stack([variance for _, variance in parts], dim=-1)
    assert torch.equal(torch.stack([mean for mean, _ in parts], dim=-1), moments.mean)
    total, aleatoric, epistemic = split_variance(moments.mean, variance)
    assert torch.allclose(moments.mean.double(), mean, atol=1e-6, rtol=0)
    assert torch.allclose(total.double(), mean * (1 - mean), atol=1e-6, rtol=0)
    assert torch.allclose(aleatoric.double(), (exact * (1 - exact)).mean(dim=0), atol=1e-6, rtol=0)
    assert torch.allclose(epistemic.double(), exact.var(dim=0, unbiased=False), atol=1e-6, rtol=0)
    assert torch.allclose(total, aleatoric + epistemic, atol=1e-6, rtol=0)
    assert min(total.min(), aleatoric.min(), epistemic.min()) >= 0


def test_a_small_variance_beside_a_large_mean_survives_float32() -> None:
    """The textbook's mean of squares less square of mean would lose it wholly."""
    moments = Moments()
    values = torch.tensor([0.9999, 0.9998, 0.9997, 0.9998], dtype=torch.float32)
    for value in values:
        moments.add(value[None])
    expected = values.double().var(unbiased=False)
    assert float(moments.at(torch.tensor(0))[1]) == pytest.approx(float(expected), rel=1e-3)


def test_samples_that_agree_have_aleatoric_variance_alone() -> None:
    values = samples(0, 1, "softmax").expand(4, -1, -1, -1, -1)
    maps = CaseUncertainty(NAMES, "softmax", 1.0).add(iter(values))
    assert maps["epistemic"].max() == 0
    assert torch.equal(maps["total"], maps["aleatoric"])
    for score in scores_of(values).values():
        assert (score.volume_sd_ml, score.volume_cv, score.pairwise_dice, score.epistemic) == (0.0, 0.0, 1.0, 0.0)


def test_samples_that_are_sure_and_contradict_have_epistemic_variance_alone() -> None:
    """Half of the samples say 1, half 0: total and epistemic variance are 1/4."""
    values = torch.zeros(4, 1, 2, 2, 1)
    values[:2] = 1
    case = CaseUncertainty({1: "liver"}, "sigmoid", 1.0)
    maps = case.add(iter(values))
    expected = {"mean": 0.5, "total": 0.25, "aleatoric": 0.0, "epistemic": 0.25}
    assert {name: float(part.unique()) for name, part in maps.items()} == pytest.approx(expected, abs=1e-6)
    score = case.scores()["liver"]
    # Volumes 4, 4, 0, 0 ml: mean 2, standard deviation over 3 of the four sqrt(16 / 3).
    assert score.volume_ml == 2
    assert score.volume_sd_ml == pytest.approx(math.sqrt(16 / 3))
    assert score.volume_cv == pytest.approx(math.sqrt(16 / 3) / 2)
    # Of six pairs one agrees that it is there, four contradict, one agrees that it isn't and doesn't count.
    assert score.pairwise_dice == pytest.approx(1 / 5)
    assert score.epistemic == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_scores_are_those_of_whole_volumes(outputs) -> None:
    values = samples(3, 5, outputs)
    labels = [label_of(one, outputs).numpy() for one in values]
    found = scores_of(values, outputs, height=2)
    exact = values.double()
    for number, name in NAMES.items():
        volumes = [np.count_nonzero(label == number) * 0.002 for label in labels]
        assert found[name].volume_ml == pytest.approx(np.mean(volumes))
        assert found[name].volume_sd_ml == pytest.approx(np.std(volumes, ddof=1))
        dice = [
            compare_labels(a, b, (1.0, 1.0, 1.0), {number: name}, surfaces=False)[0].dice
            for a, b in itertools.combinations(labels, 2)
        ]
        assert found[name].pairwise_dice == pytest.approx(np.mean(dice))
        channel = number - (outputs == "sigmoid")
        variance = exact[..., channel].var(dim=0, unbiased=False).numpy()
        anywhere = np.any([label == number for label in labels], axis=0)
        assert found[name].epistemic == pytest.approx(variance[anywhere].mean(), rel=1e-5)


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_slabs_of_any_height_give_the_same_bits(outputs) -> None:
    values = samples(4, 4, outputs, (6, 33, 47))
    first, *others = (scores_of(values, outputs, height) for height in (6, 1, 2, 4))
    assert all(other == first for other in others)


def test_maps_are_of_the_likeliest_class_besides_the_background() -> None:
    values = samples(5, 6, "softmax")
    maps = CaseUncertainty(NAMES, "softmax", 1.0).add(iter(values))
    mean = values.mean(dim=0)[..., 1:]
    at = mean.argmax(dim=-1, keepdim=True)
    assert torch.allclose(maps["mean"], mean.amax(dim=-1), atol=1e-6)
    variance = values.var(dim=0, unbiased=False)[..., 1:].gather(-1, at)[..., 0]
    assert torch.allclose(maps["epistemic"], variance, atol=1e-6)
    assert torch.allclose(maps["total"], maps["aleatoric"] + maps["epistemic"], atol=1e-6)
    assert maps["total"].max() <= 0.25


def test_a_class_that_no_sample_finds_has_no_score() -> None:
    values = torch.zeros(3, 2, 4, 4, 3)
    values[..., 1] = 1
    score = scores_of(values)["spleen"]
    assert (score.volume_ml, score.volume_sd_ml) == (0.0, 0.0)
    assert all(math.isnan(value) for value in (score.volume_cv, score.pairwise_dice, score.epistemic))


def test_members_without_dropout_count_once() -> None:
    assert passes([True, False], 3) == [(0, 0), (0, 1), (0, 2), (1, None)]
    assert passes([True, True], 2) == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert passes([True, False], 1) == [(0, None), (1, None)]
    assert passes([False], 5) == [(0, None)]


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="two samples"):
        CaseUncertainty(NAMES, "softmax", 1.0).add(iter(samples(0, 1, "softmax")))
    with pytest.raises(ValueError, match="no slab"):
        CaseUncertainty(NAMES, "softmax", 1.0).scores()
