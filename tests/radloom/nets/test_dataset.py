"""The cache of cases and the items that are cut out of them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_material import SPACING, ball, cached_balls

from radloom.errors import CohortError
from radloom.nets.augment import Augmentation
from radloom.nets.dataset import (
    EpochBatches,
    Patches,
    Preparation,
    Sampling,
    cache_case,
    make_loader,
    plan_epoch,
    resample_image,
    resample_labels,
)
from radloom.nets.inplane import linear_matrix, pixels

WINDOW = (-160.0, 240.0)
CHANGES = Augmentation(("x",), rotate=15, scale=0.2, shift=3, noise_hu=8, blur=1, hu_shift=10)


def test_labels_are_read_once_and_never_for_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Counter[str]()

    def case(name: str, key: str = "1") -> None:
        def read() -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
            reads[name] += 1
            return (*ball(0), SPACING)

        made.append(cache_case(tmp_path / name, key, name, "a", (2.0, 2.0), 2, read))

    made: list = []
    for name in "xy":
        case(name)
    opened = Counter[str]()
    load = np.load

    def counted(path: Path, *args: object, **options: object) -> object:
        opened[path.name, options.get("mmap_mode")] += 1
        return load(path, *args, **options)

    monkeypatch.setattr(np, "load", counted)
    patches = Patches(made, Preparation((32, 32), WINDOW))
    for epoch in range(3):
        for sample in plan_epoch(made, Sampling((32, 32), 20), 0, epoch):
            patches[sample]
    assert reads == {"x": 1, "y": 1}
    # What is where is known from the counts, read once a case; volumes are mapped, never read as a whole.
    assert opened["counts.npy", None] == 2
    assert {mode for (name, mode), _ in opened.items() if name != "counts.npy"} == {"r"}
    case("x")
    assert reads["x"] == 1
    case("x", "another key")
    assert reads["x"] == 2


def test_a_stop_while_a_case_is_made_leaves_no_half_case(tmp_path: Path) -> None:
    def read() -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_case(tmp_path / "a", "k", "a", "c", (2.0, 2.0), 2, read)
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / "case.json").write_text("{")
    case = cache_case(tmp_path / "a", "k", "a", "c", (2.0, 2.0), 2, lambda: (*ball(1), SPACING))
    assert np.array_equal(case.labels, ball(1)[1])
    assert json.loads((tmp_path / "a" / "case.json").read_text())["spacing"] == [2, 2, 4]


def test_counts_say_which_slices_hold_which_class(tmp_path: Path) -> None:
    (case,) = cached_balls(tmp_path, 1)
    assert case.counts.shape == (6, 3)
    assert np.array_equal(case.counts, [np.bincount(plane.ravel(), minlength=3) for plane in case.labels])
    assert case.shape == (6, 32, 40)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(2, 12), st.integers(2, 12)),
    st.tuples(*[st.floats(0.6, 3.0)] * 3),
    st.tuples(*[st.floats(0.6, 3.0)] * 3),
    st.integers(2, 3),
    st.integers(0, 1000),
)
def test_labels_are_the_largest_share_as_one_hot_interpolation_says(
    shape: tuple[int, int, int], spacing: tuple[float, ...], target: tuple[float, ...], axes: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    matrices = []
    for axis, length in enumerate(shape):
        which = 2 - axis
        if which >= axes:
            matrices.append(np.eye(length))
        else:
            count = pixels(length, spacing[which], target[which])
            matrices.append(linear_matrix(length, spacing[which], count, target[which]).double().numpy())
    shares = np.stack([np.einsum("az,by,cx,zyx->abc", *matrices, labels == n) for n in range(4)])
    found = resample_labels(labels, spacing, target[:axes])
    chosen = np.take_along_axis(shares, found[None].astype(int), 0)[0]
    # float32 sums of weights up to 1: a share within 1e-5 of the largest is as large.
    assert (chosen >= shares.max(axis=0) - 1e-5).all()


def test_images_are_interpolated_and_keep_a_ramp() -> None:
    z, y, x = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in (9, 20, 30)], indexing="ij")
    ramp = (100 * 3 * z + 10 * 1.0 * y - 7 * 0.8 * x).astype(np.float32)
    # Finer than the image's own: there linear interpolation is exact, with nothing averaged.
    for target in ((0.6, 0.7), (0.6, 0.7, 2.0)):
        made = resample_image(ramp, (0.8, 1.0, 3.0), target)
        sz = 3.0 if len(target) == 2 else 2.0
        gz, gy, gx = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in made.shape], indexing="ij")
        expected = 100 * sz * gz + 10 * 0.7 * gy - 7 * 0.6 * gx
        assert np.abs(made - expected)[1:-1, 1:-1, 1:-1].max() <= 0.51  # rounded to whole HU


def test_the_own_spacing_changes_nothing() -> None:
    image, labels = ball(3)
    assert np.array_equal(resample_image(image, SPACING, SPACING), image)
    assert np.array_equal(resample_labels(labels, SPACING, SPACING), labels)


def test_an_epoch_has_every_slice_once_in_another_order_each_time(tmp_path: Path) -> None:
    cases = cached_balls(tmp_path, 3)
    first, second = (plan_epoch(cases, Sampling((32, 40)), 0, epoch) for epoch in (1, 2))
    expected = sorted((case, z) for case in range(3) for z in range(6))
    assert sorted((s.case, s.slice) for s in first) == sorted((s.case, s.slice) for s in second) == expected
    assert [s.slice for s in first] != [s.slice for s in second]
    assert plan_epoch(cases, Sampling((32, 40)), 0, 1) == first
    assert [s.slice for s in plan_epoch(cases, Sampling((32, 40)), 1, 1)] != [s.slice for s in first]


@pytest.mark.parametrize("patch", [(16, 16), (4, 16, 16)])
def test_foreground_items_show_their_class_and_classes_are_drawn_alike(tmp_path: Path, patch: tuple[int, ...]) -> None:
    cases = cached_balls(tmp_path, 4)
    patches = Patches(cases, Preparation(patch, WINDOW))
    plan = plan_epoch(cases, Sampling(patch, 200, foreground=0.75), 0, 1)
    drawn = Counter(sample.label for sample in plan)
    # Binomial: 4 standard deviations.
    assert abs(drawn[0] - 50) < 25
    assert abs(drawn[1] - 75) < 28
    for sample in plan[:60]:
        inputs, labels, centre = patches[sample]
        assert inputs.shape == (1, *patch)
        assert labels.shape == patch
        assert inputs.dtype == torch.float32
        assert (sample.label == 0) or (labels == sample.label).any()
        assert patches.centres[centre] == cases[sample.case].centre


def test_slices_around_are_channels_and_the_middle_one_is_labelled(tmp_path: Path) -> None:
    (case,) = cached_balls(tmp_path, 1)
    patches = Patches([case], Preparation((32, 40), (-1000.0, 1000.0), slices=3))
    for sample in plan_epoch([case], Sampling((32, 40)), 0, 1):
        inputs, labels, _ = patches[sample]
        assert np.array_equal(labels, case.labels[sample.slice])
        for channel, z in enumerate((sample.slice - 1, sample.slice, sample.slice + 1)):
            plane = case.image[min(max(z, 0), 5)].astype(np.float32)
            np.testing.assert_allclose(inputs[channel], (plane + 1000) / 2000, atol=1e-6)


@pytest.mark.parametrize("patch", [(32, 40), (4, 16, 16)])
def test_the_number_of_workers_changes_nothing(tmp_path: Path, patch: tuple[int, ...]) -> None:
    cases = cached_balls(tmp_path, 2)

    def epochs(workers: int) -> list[torch.Tensor]:
        patches = Patches(cases, Preparation(patch, WINDOW, augmentation=CHANGES))
        batches = EpochBatches(cases, Sampling(patch), 4, seed=3)
        loader = make_loader(patches, batches, workers)
        found = []
        for epoch in (1, 2):
            batches.epoch = epoch
            found += [part for batch in loader for part in batch]
        return found

    alone, helped = epochs(0), epochs(2)
    assert len(alone) == len(helped) > 0
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_processes_share_every_batch(tmp_path: Path) -> None:
    cases = cached_balls(tmp_path, 3)
    whole = EpochBatches(cases, Sampling((32, 40)), 4, 0)
    parts = [EpochBatches(cases, Sampling((32, 40)), 2, 0, rank, 2) for rank in (0, 1)]
    assert len(whole) == len(parts[0]) == 4
    assert list(whole) == [a + b for a, b in zip(*parts, strict=True)]
    with pytest.raises(CohortError, match="18 items, fewer than a batch of 20"):
        EpochBatches(cases, Sampling((32, 40)), 10, 0, 0, 2)


def test_what_cant_be() -> None:
    with pytest.raises(ValueError, match="share"):
        Sampling((2, 2), foreground=2)
    with pytest.raises(ValueError, match="at least one"):
        Sampling((2, 2), samples=0)
