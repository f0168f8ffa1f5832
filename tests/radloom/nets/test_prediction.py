"""Predictions equal MONAI's windows and the naive whole-volume computation, whatever the grid, batch and ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from radloom.errors import CaseError, CohortError
from radloom.nets import prediction
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import ModelDescription
from radloom.nets.inplane import linear_matrix, to_input
from radloom.nets.net import Net
from radloom.nets.prediction import Member, Predictor, Settings, member_of, split_head

Vector = tuple[float, float, float]


class Small(Net):
    """A small net of any dimensions: two convolutions and a last one of 1 x 1, as U-Nets have."""

    def __init__(self, outputs: int, dimensions: int = 3, inputs: int = 1, features: int = 4, seed: int = 0) -> None:
        super().__init__(Architecture(), outputs)
        self.multiple = (4,) * dimensions
        torch.manual_seed(seed)
        convolution: Any = nn.Conv3d if dimensions == 3 else nn.Conv2d
        self.first = convolution(inputs, features, 3, padding=1)
        self.last = convolution(features, outputs, 1)
        for parameter in self.parameters():
            nn.init.normal_(parameter)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(torch.relu(self.first(x)))
        return logits


def describe(
    classes: int, spacing: Sequence[float], patch: Sequence[int] = (), slices: int = 1, **other: Any
) -> ModelDescription:
    return ModelDescription(
        "test",
        {i: f"c{i}" for i in range(1, classes + 1)},
        tuple(spacing),
        (-100.0, 100.0),
        Architecture(dimensions=len(spacing), slices=slices),
        patch=tuple(patch),
        **other,
    )


def scan_of(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 60, shape).astype(np.float32)


def predictor_of(net: Net, description: ModelDescription, quick: bool = True, **settings: Any) -> Predictor:
    member = member_of("test", net.eval(), description) if quick else Member("test", net.eval(), description)
    return Predictor([member], Settings(device="cpu", **settings))


def whole(slabs: Any) -> torch.Tensor:
    """All planes of a stream, (planes, y, x, channels)."""
    parts, at = [], 0
    for first, slab in slabs:
        assert first == at
        at += len(slab)
        parts.append(slab)
    return torch.cat(parts)


def naive_field(probability: torch.Tensor, shape: Sequence[int], own: Vector, net: Vector) -> torch.Tensor:
    """The whole map (z, y, x, channels), in float64, on the own grid (spacings x, y, z): (channels, z, y, x)."""
    field = probability.double().movedim(-1, 0)
    for axis, (n, s, t) in enumerate(zip(shape, own[::-1], net[::-1], strict=True), start=1):
        matrix = linear_matrix(field.shape[axis], t, n, s).double()
        field = torch.movedim(torch.tensordot(matrix, field, dims=([1], [axis])), 0, axis)
    return field


def assert_decided(labels: np.ndarray, field: torch.Tensor, sigmoid: bool) -> None:
    """The labels are what the rule makes of the whole field (channels, z, y, x), but for ties in float32."""
    if sigmoid:
        field = torch.cat([torch.full_like(field[:1], 0.5), field])
    taken = field.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    assert float((field.amax(0) - taken).max()) < 1e-6
    clear = field.topk(2, dim=0).values
    decided = clear[0] - clear[1] > 1e-6
    assert torch.equal(torch.from_numpy(labels.astype(np.int64))[decided], field.argmax(0)[decided])
    assert decided.double().mean() > 0.5


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("shape", "patch", "overlap"),
    [
        ((32, 24, 40), (16, 16, 16), 0.5),
        ((16, 16, 16), (16, 16, 16), 0.5),
        ((40, 28, 20), (16, 16, 8), 0.25),
        ((12, 9, 20), (16, 16, 16), 0.5),
    ],
)
def test_windows_equal_those_of_monai(shape: Any, patch: Any, overlap: float, quick: bool) -> None:
    from monai.inferers import sliding_window_inference

    net, description = Small(7), describe(6, (1.0, 1.0, 1.0), patch, overlap=overlap)
    array = scan_of(shape)
    image = to_input(torch.from_numpy(array), description.hu_window)[None, None]
    # MONAI pads with a value too, and half of it before; its windows lie like ours where they fit without a rest.
    expected = sliding_window_inference(image, patch, 2, net, overlap=overlap, mode="gaussian", sigma_scale=0.125)
    predictor = predictor_of(net, description, quick)
    assert (predictor.members[0].head is not None) is quick
    (scan,) = predictor.scans(array, (1.0, 1.0, 1.0))
    found = whole(predictor.logits(scan)).movedim(-1, 0)
    # float32: MONAI sums the same numbers in another order.
    assert float((found - expected[0]).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(("slices", "patch"), [(1, ()), (1, (16, 8)), (3, (8, 8)), (5, ())])
def test_slices_and_their_neighbours_equal_the_net_itself(slices: int, patch: Any) -> None:
    net, description = Small(3, 2, inputs=slices), describe(2, (1.0, 1.0), patch, slices)
    array = scan_of((7, 24, 20))
    image = to_input(torch.from_numpy(array), description.hu_window)
    padded = torch.cat([image[:1]] * (slices // 2) + [image] + [image[-1:]] * (slices // 2))
    stacked = torch.stack([padded[i : i + slices] for i in range(len(image))])
    predictor = predictor_of(net, description)
    (scan,) = predictor.scans(array, (1.0, 1.0, 3.0))
    found = whole(predictor.logits(scan)).movedim(-1, 1)
    if patch:
        from monai.inferers import sliding_window_inference

        expected = sliding_window_inference(stacked, patch, 4, net, overlap=0.5, mode="gaussian", sigma_scale=0.125)
    else:
        expected = net(stacked)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


class Identity(Net):
    multiple = (1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 1 - x], dim=1)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 22)] * 3),
    patch=st.tuples(*[st.integers(1, 9)] * 3),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    mirrors=st.sampled_from([(), ("x",), ("z", "y", "x")]),
)
def test_a_net_that_is_the_identity_gives_the_image_back(shape: Any, patch: Any, overlap: float, mirrors: Any) -> None:
    description = describe(1, (1.0, 1.0, 1.0), patch, overlap=overlap)
    predictor = predictor_of(Identity(Architecture(), 2), description, mirrors=mirrors)
    (scan,) = predictor.scans(scan_of(shape), (1.0, 1.0, 1.0))
    found = whole(predictor.logits(scan))
    assert found.shape == (*shape, 2)
    assert torch.allclose(found[..., 0], scan.image, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 80), st.integers(1, 20)),
    own=st.one_of(st.just((1.5, 1.5, 2.0)), st.tuples(*[st.sampled_from([0.7, 1.5, 2.0, 3.0])] * 3)),
    outputs=st.sampled_from(["softmax", "sigmoid"]),
    dimensions=st.sampled_from([2, 3]),
)
def test_labels_equal_the_naive_computation(shape: Any, own: Vector, outputs: str, dimensions: int) -> None:
    classes = 9
    spacing = (1.5, 1.5, 2.0)[:dimensions]
    description = describe(classes, spacing, (8, 8, 8) if dimensions == 3 else (), outputs=outputs)
    predictor = predictor_of(Small(description.channels_out, dimensions), description)
    array = scan_of(shape)
    (scan,) = predictor.scans(array, own)
    probability = whole(predictor.probabilities(scan))
    net = (*spacing, own[2])[:3]
    labels = predictor.labels(array, own)
    assert labels.dtype == np.uint8
    assert_decided(labels, naive_field(probability, shape, own, net), outputs == "sigmoid")


def test_classes_that_win_only_between_voxels_are_not_lost() -> None:
    """Two neighbours that agree on nothing but their second choice: in between it wins."""
    slab = torch.tensor([0.02, 0.5, 0.04, 0.44, 0.02, 0.04, 0.5, 0.44]).view(1, 1, 2, 4)
    description = describe(3, (2.0, 2.0))
    predictor = predictor_of(Small(4, 2), description)
    (scan,) = predictor.scans(np.zeros((1, 2, 4), np.float32), (1.0, 1.0, 1.0))
    assert predictor.decide([scan], [[(0, slab)]])[0, 0].tolist() == [1, 3, 3, 2]


@pytest.mark.parametrize(("dimensions", "batches"), [(2, (1, 3, 50)), (3, (1, 2, 50))])
def test_labels_are_the_same_bit_for_bit_for_any_batch(dimensions: int, batches: Sequence[int]) -> None:
    patch = (8, 8, 8) if dimensions == 3 else (8, 8)
    description = describe(5, (1.0,) * dimensions, patch)
    array = scan_of((13, 20, 17))
    found = []
    for batch in batches:
        predictor = predictor_of(Small(6, dimensions), description, batch=batch)
        (scan,) = predictor.scans(array, (1.0, 1.0, 1.0))
        found.append(whole(predictor.probabilities(scan)))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_mirrors_average_the_logits_of_all_flips() -> None:
    net, description = Small(3), describe(2, (1.0, 1.0, 1.0), (8, 8, 8))
    array = scan_of((8, 8, 8))
    image = to_input(torch.from_numpy(array), description.hu_window)[None, None]
    flips = [(), (2,), (4,), (2, 4)]
    expected = torch.stack([net(image.flip(f)).flip(f) if f else net(image) for f in flips]).mean(0)[0]
    predictor = predictor_of(net, description, mirrors=("z", "x"))
    (scan,) = predictor.scans(array, (1.0, 1.0, 1.0))
    assert torch.allclose(whole(predictor.logits(scan)).movedim(-1, 0), expected, rtol=1e-5, atol=1e-4)
    once = whole(predictor.logits(scan, mirror=False)).movedim(-1, 0)
    assert torch.allclose(once, net(image)[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_an_ensemble_decides_by_the_mean_probability_whatever_its_members_grids(outputs: str) -> None:
    own = (1.0, 1.0, 2.0)
    one = describe(4, (1.5, 1.5, 3.0), (8, 8, 8), outputs=outputs)
    other = describe(4, (2.0, 2.0), outputs=outputs, temperature=2.0)
    nets = [Small(one.channels_out, 3, seed=1), Small(one.channels_out, 2, seed=2)]
    predictor = Predictor([Member("one", nets[0], one), Member("other", nets[1], other)], Settings(device="cpu"))
    array = scan_of((9, 30, 40))
    scans = predictor.scans(array, own)
    fields = []
    for i, (scan, net) in enumerate(zip(scans, [(1.5, 1.5, 3.0), (2.0, 2.0, 2.0)], strict=True)):
        field = naive_field(whole(predictor.probabilities(scan, i)), array.shape, own, net)
        parts = predictor.to_own_grid(scan, predictor.probabilities(scan, i))
        assert np.allclose(np.concatenate([part for _, part in parts], axis=1), field, atol=1e-5)
        fields.append(field)
    assert_decided(predictor.labels(array, own), (fields[0] + fields[1]) / 2, outputs == "sigmoid")


def test_members_with_other_classes_are_refused() -> None:
    members = [Member(n, Small(c + 1), describe(c, (1.0,) * 3, (8, 8, 8))) for n, c in (("a", 2), ("b", 3))]
    with pytest.raises(CohortError, match="same classes"):
        Predictor(members, Settings(device="cpu"))


def test_a_patch_that_the_net_cannot_halve_is_refused() -> None:
    with pytest.raises(CohortError, match="not a multiple"):
        predictor_of(Small(3), describe(2, (1.0,) * 3, (8, 8, 10)), quick=False)


def test_values_that_are_no_numbers_exclude_the_case() -> None:
    net = Small(3)
    with torch.no_grad():
        net.last.bias[1] = float("nan")
    predictor = predictor_of(net, describe(2, (1.0,) * 3, (8, 8, 8)), quick=False)
    for spacing in ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5)):
        with pytest.raises(CaseError, match="no numbers"):
            predictor.labels(scan_of((8, 8, 8)), spacing)
    (scan,) = predictor.scans(scan_of((8, 8, 8)), (1.0, 1.0, 1.0))
    with pytest.raises(CaseError, match="no numbers"):
        list(predictor.probabilities(scan))


def test_a_head_that_is_not_the_end_stays_where_it_is() -> None:
    class Sharper(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) ** 2

    net = Sharper(7)
    assert split_head(net, describe(6, (1.0,) * 3, (8, 8, 8))) is None
    assert isinstance(net.last, nn.Conv3d)


class Greedy(Small):
    """Has no room for more than `room` windows at once on the card, which `cpu:0` stands for."""

    room = 1
    kind: type[Exception] = torch.OutOfMemoryError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise self.kind("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(x)


def on_card(net: Net, description: ModelDescription, batch: int = 8) -> Predictor:
    return Predictor([Member("test", net, description)], Settings("cpu", batch=batch), device="cpu:0")


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_short_memory_lowers_the_batch_and_says_so(dimensions: int, kind: type[Exception]) -> None:
    description = describe(3, (1.5,) * dimensions, (8, 8, 8)[:dimensions])
    array = scan_of((9, 30, 22))
    net = Greedy(4, dimensions)
    expected = predictor_of(Small(4, dimensions), description).labels(array, (1.0, 1.0, 1.5))
    net.room, net.kind = 2, kind
    predictor = on_card(net, description)
    assert np.mean(predictor.labels(array, (1.0, 1.0, 1.5)) != expected) < 1e-3
    assert predictor.warnings == ["short of memory on the card: the batch was halved"] * 2
    assert predictor.facts()["device"] == "cpu:0"
    # The next case tries again from the top.
    net.room = 8
    assert np.mean(predictor.labels(array, (1.0, 1.0, 1.5)) != expected) < 1e-3
    assert predictor.warnings == []


@pytest.mark.parametrize("dimensions", [2, 3])
def test_with_no_room_at_all_the_cpu_takes_over(dimensions: int) -> None:
    description = describe(3, (1.5,) * dimensions, (8, 8, 8)[:dimensions])
    array = scan_of((9, 30, 22))
    expected = predictor_of(Small(4, dimensions), description).labels(array, (1.0, 1.0, 1.5))

    class Crowded(Small):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if 3 <= self.calls < 9 and predictor._at != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    predictor = on_card(Crowded(4, dimensions), description, batch=2)
    assert np.mean(predictor.labels(array, (1.0, 1.0, 1.5)) != expected) < 1e-3
    assert [warning.split(": ")[1] for warning in predictor.warnings] == [
        "the batch was halved",
        "sums were kept in the host's memory",
        "the net went on on the CPU",
    ]
    assert predictor.facts()["device"] == "cpu"


def test_memory_that_the_cpu_lacks_too_is_an_error_and_other_errors_are_no_lack_of_memory() -> None:
    description = describe(3, (1.5, 1.5, 1.5), (8, 8, 8))
    net = Greedy(4)
    net.room = 0
    with pytest.raises(MemoryError):
        on_card(net, description).labels(scan_of((8, 8, 8)), (1.0, 1.0, 1.0))

    class Broken(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({len(x)})")

    with pytest.raises(RuntimeError, match="mat1"):
        on_card(Broken(4), description).labels(scan_of((8, 8, 8)), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_temperature_divides_the_logits_and_precision_is_the_devices(outputs: str) -> None:
    net = Small(4)
    plain = describe(3 if outputs == "softmax" else 4, (1.0,) * 3, (8, 8, 8), outputs=outputs, precision="bfloat16")
    warm = describe(3 if outputs == "softmax" else 4, (1.0,) * 3, (8, 8, 8), outputs=outputs, temperature=3.0)
    array = scan_of((8, 12, 8))
    first, second = predictor_of(net, plain), predictor_of(net, warm)
    logits = whole(first.logits(first.scans(array, (1.0, 1.0, 1.0))[0])) / 3
    expected = logits.softmax(-1) if outputs == "softmax" else logits.sigmoid()
    found = whole(second.probabilities(second.scans(array, (1.0, 1.0, 1.0))[0]))
    assert torch.allclose(found, expected, atol=1e-6)
    assert first.facts()["precision"] == ["float32"]
    assert np.array_equal(first.labels(array, (1.0, 1.0, 1.0)), second.labels(array, (1.0, 1.0, 1.0)))


def test_bfloat16_on_request_changes_few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    description = describe(3, (1.0,) * 3, (8, 8, 8), precision="bfloat16")
    array = scan_of((8, 24, 24))
    exact = predictor_of(Small(4), description).labels(array, (1.0, 1.0, 1.0))
    monkeypatch.setattr(prediction, "cpu_has_bfloat16", lambda: True)
    rough = predictor_of(Small(4), description, cpu_precision="model")
    labels = rough.labels(array, (1.0, 1.0, 1.0))
    assert rough.facts()["precision"] == ["bfloat16"]
    assert 0 < np.mean(labels != exact) < 0.03
    monkeypatch.setattr(prediction, "cpu_has_bfloat16", lambda: False)
    assert np.array_equal(rough.labels(array, (1.0, 1.0, 1.0)), exact)


def test_samples_of_dropout_follow_from_their_seed_whatever_the_batch() -> None:
    architecture = Architecture(dimensions=3, channels=(4, 8), dropout=0.3)
    torch.manual_seed(0)
    net = build_net(architecture, 3).eval().requires_grad_(False)
    description = dataclasses.replace(describe(2, (1.0,) * 3, (8, 8, 8)), architecture=architecture)
    array = scan_of((12, 12, 8))
    samples = []
    for seed, batch in ((None, 1), (5, 1), (5, 4), (6, 4)):
        predictor = on_card(net, description, batch)
        (scan,) = predictor.scans(array, (1.0, 1.0, 1.0))
        samples.append(whole(predictor.probabilities(scan, seed=seed)))
    assert torch.allclose(samples[1], samples[2], atol=1e-5)
    for one, other in ((0, 1), (2, 3)):
        assert float((samples[one] - samples[other]).abs().max()) > 1e-3
