"""Labels from masks and from the U-Net: on the image's grid, whatever its spacing, size and orientation."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from radloom import segment
from radloom.errors import CaseError, CohortError
from radloom.images import Geometry, Volume, reorient
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import ModelDescription, load_model, read_description, save_model
from radloom.nets.prediction import Member, Predictor, Settings, choose_device
from radloom.nets.validation import dice_of_classes
from radloom.phantoms import Phantom, Scanner, draw_anatomy, make_phantom
from radloom.segment import segment_mask, segment_model

CPU = Settings(device="cpu")


@pytest.fixture
def model(repo: Path) -> Path:
    return repo / "resources/models/demo_unet"


def phantom_of(seed: int, spacing: tuple[float, float, float] = (2.0, 2.0, 4.0), *, tumour: bool = True) -> Phantom:
    # A first word that neither the training nor the demonstration uses.
    rng = np.random.default_rng([30_000, seed])
    return make_phantom(draw_anatomy(rng, with_tumour=tumour), Scanner(spacing, 2.0, 8.0), rng)


def dice_coefficient(found: np.ndarray, truth: np.ndarray) -> float:
    return float(dice_of_classes(found.astype(np.uint8), truth.astype(np.uint8), 1)[0])


def volume_of(array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    nz, ny, nx = array.shape
    return Volume(array, Geometry((nx, ny, nz), spacing, (-10.0, 5.0, 3.0)))


def test_a_mask_without_configured_labels_is_one_roi() -> None:
    array = np.array([[[0, 1, 7, 300]]], np.uint16)
    labels, names, warnings = segment_mask(volume_of(array), {}, "lesion")
    assert labels.array.tolist() == [[[0, 1, 1, 1]]]
    assert labels.array.dtype == np.uint8
    assert (names, warnings) == ({1: "lesion"}, [])
    assert segment_mask(volume_of(array))[1] == {1: "ROI"}


def test_configured_labels_keep_their_numbers_and_others_are_ignored_with_a_warning() -> None:
    array = np.array([[[0, 1, 2, 5, 9]]], np.uint8)
    labels, names, warnings = segment_mask(volume_of(array), {2: "liver", 5: "tumour", 6: "node"}, "ignored")
    assert labels.array.tolist() == [[[0, 0, 2, 5, 0]]]
    # The ROI that this mask doesn't have keeps its name: later steps say that it is missing.
    assert names == {2: "liver", 5: "tumour", 6: "node"}
    assert warnings == ["the mask's labels 1, 9 are not in segment.labels and are ignored"]


def test_labels_above_255_stay_apart() -> None:
    labels, _, _ = segment_mask(volume_of(np.array([[[0, 1, 257]]], np.uint16)), {1: "a", 257: "b"})
    assert labels.array.tolist() == [[[0, 1, 257]]]


@pytest.mark.parametrize(
    ("values", "labels", "name", "reason"),
    [
        ([0, 0], {}, "", "the mask is empty"),
        ([0, 3], {1: "tumour", 2: "liver"}, "", r"labels 3, none of the configured 1, 2"),
        ([0, 1], {}, "left lung", "ROI name 'left lung' is not a letter"),
    ],
)
def test_masks_that_cannot_be_used(values: list[int], labels: dict[int, str], name: str, reason: str) -> None:
    with pytest.raises(CaseError, match=reason) as caught:
        segment_mask(volume_of(np.array([[values]], np.uint8)), labels, name)
    assert caught.value.advice


def test_the_shipped_model_says_what_it_is(model: Path) -> None:
    description, _ = read_description(model)
    assert description.classes == {1: "organ", 2: "tumour"}
    assert description.dice["organ"]["mean"] >= 0.93
    assert description.dice["tumour"]["mean"] >= 0.8
    assert sum(p.stat().st_size for p in model.iterdir()) < 1_000_000


def test_the_shipped_model_finds_organ_and_tumour_in_phantoms_it_has_not_seen(model: Path) -> None:
    scores: dict[int, list[float]] = {1: [], 2: []}
    spacings = [(1.8, 1.8, 3.0), (2.5, 2.5, 5.0), (2.0, 2.0, 3.0), (1.5, 2.2, 4.0)]
    for seed, spacing in enumerate(spacings * 2):
        phantom = phantom_of(seed, spacing)
        found = segment_model(volume_of(phantom.image, spacing), model, CPU)
        labels, names = found.labels, found.names
        assert names == {1: "organ", 2: "tumour"}
        assert labels.array.dtype == np.uint8
        for label, found in scores.items():
            found.append(dice_coefficient(labels.array == label, phantom.labels == label))
    assert np.mean(scores[1]) >= 0.93
    assert np.mean(scores[2]) >= 0.8


def test_a_patient_without_tumour_gets_none(model: Path) -> None:
    phantom = phantom_of(50, tumour=False)
    labels = segment_model(volume_of(phantom.image, phantom.spacing), model, CPU).labels
    assert dice_coefficient(labels.array == 1, phantom.labels == 1) > 0.95
    assert np.count_nonzero(labels.array == 2) < 10


def test_labels_follow_the_image_into_any_orientation(model: Path) -> None:
    phantom = phantom_of(51)
    upright = volume_of(phantom.image, phantom.spacing)
    expected = segment_model(upright, model, CPU).labels
    turned = reorient(upright, (0.0, -1.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0))
    assert turned.array.shape != upright.array.shape
    labels = segment_model(turned, model, CPU).labels
    assert labels.geometry == turned.geometry
    assert np.array_equal(reorient(labels).array, expected.array)


def test_labels_do_not_depend_on_the_batch(model: Path) -> None:
    phantom = phantom_of(52, (1.7, 1.7, 3.0))
    image = volume_of(phantom.image, phantom.spacing)
    first = segment_model(image, model, Settings("cpu", batch=1)).labels
    for slices in (3, 500):
        labels = segment_model(image, model, Settings("cpu", batch=slices)).labels
        assert np.array_equal(labels.array, first.array)


def test_a_finer_grid_changes_little_and_int16_nothing(model: Path) -> None:
    phantom = phantom_of(53)
    image = volume_of(np.rint(phantom.image).astype(np.int16), phantom.spacing)
    coarse = segment_model(image, model, CPU).labels
    as_float = segment_model(dataclasses.replace(image, array=image.array.astype(np.float32)), model, CPU).labels
    assert np.array_equal(coarse.array, as_float.array)
    fine = np.repeat(np.repeat(image.array, 2, axis=1), 2, axis=2)
    labels = segment_model(volume_of(fine, (1.0, 1.0, 4.0)), model, CPU).labels
    doubled = np.repeat(np.repeat(coarse.array, 2, axis=1), 2, axis=2)
    for label in (1, 2):
        assert dice_coefficient(labels.array == label, doubled == label) > 0.95


@pytest.mark.parametrize("shape", [(1, 33, 47), (5, 1, 9), (3, 130, 21)])
@pytest.mark.parametrize("spacing", [(0.7, 1.3), (2.5, 2.5), (7.0, 4.0)])
def test_any_size_and_spacing_gives_labels_on_the_grid(
    model: Path, shape: tuple[int, int, int], spacing: tuple[float, float]
) -> None:
    net, description = load_model(model)
    image = np.random.default_rng(0).normal(50, 60, shape).astype(np.float32)
    labels = Predictor([Member("demo", net, description)]).labels(image, (*spacing, 3.0))
    assert labels.shape == shape
    assert labels.max() <= 2


def test_at_the_nets_own_spacing_the_net_alone_decides(model: Path) -> None:
    net, description = load_model(model)
    phantom = phantom_of(54, (2.5, 2.5, 5.0))
    assert phantom.image.shape[1:] == (64, 80)
    low, high = description.hu_window
    slices = torch.from_numpy(np.clip((phantom.image - low) / (high - low), 0, 1))[:, None]
    expected = net(slices).argmax(dim=1).numpy()
    found = Predictor([Member("demo", net, description)]).labels(phantom.image, phantom.spacing)
    # Another batch size may round a tie to the other side.
    assert np.mean(found != expected) < 1e-4


def test_a_scan_without_anything_is_excluded(model: Path) -> None:
    air = volume_of(np.full((4, 32, 32), -1000, np.int16), (2.0, 2.0, 3.0))
    with pytest.raises(CaseError, match="found none of organ, tumour"):
        segment_model(air, model, CPU)


def test_the_model_is_loaded_once_a_process(model: Path) -> None:
    segment._loaded.cache_clear()
    phantom = phantom_of(55)
    image = volume_of(phantom.image[8:12], phantom.spacing)
    for _ in range(3):
        segment_model(image, model, CPU)
    assert segment._loaded.cache_info().misses == 1


def test_a_model_that_was_trained_again_is_loaded_again(model: Path, tmp_path: Path) -> None:
    net, description = load_model(model)
    save_model(tmp_path, net, description)
    phantom = phantom_of(55)
    image = volume_of(phantom.image[8:12], phantom.spacing)
    before = segment_model(image, tmp_path, CPU).names
    save_model(tmp_path, net, dataclasses.replace(description, classes={1: "liver", 2: "lesion"}))
    assert (before, segment_model(image, tmp_path, CPU).names) == (
        {1: "organ", 2: "tumour"},
        {1: "liver", 2: "lesion"},
    )


def test_a_class_number_is_the_label_number(tmp_path: Path) -> None:
    net = build_net(Architecture(channels=(2, 2)), 4)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        net.last.bias[3] = 1.0
    save_model(
        tmp_path,
        net,
        ModelDescription("c", {1: "a", 2: "b", 3: "c"}, (3.0, 3.0), (-100.0, 100.0), Architecture(channels=(2, 2))),
    )
    found = segment_model(volume_of(np.zeros((2, 5, 7), np.int16)), tmp_path, CPU)
    labels, names = found.labels, found.names
    assert (labels.array == 3).all()
    assert names[3] == "c"


def test_a_wrong_model_folder_is_no_case_error(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(CohortError, match="can't be used"):
        segment_model(volume_of(np.zeros((2, 5, 7), np.int16)), tmp_path, CPU)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu") == choose_device("auto") == "cpu"
    with pytest.raises(CohortError, match="no CUDA device"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert choose_device("cpu") == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_agrees_with_the_cpu(model: Path) -> None:
    phantom = phantom_of(56)
    image = volume_of(phantom.image, phantom.spacing)
    on_cpu = segment_model(image, model, CPU).labels
    on_cuda = segment_model(image, model, Settings("cuda", batch=7)).labels
    assert np.mean(on_cpu.array != on_cuda.array) < 1e-4
    again = segment_model(image, model, Settings("cuda", batch=7)).labels
    assert np.array_equal(again.array, on_cuda.array)
