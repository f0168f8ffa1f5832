"""A net that looks at what another one finds: what it gets, what lies outside, and where its labels may be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from radloom.engine.steps import resource_hash
from radloom.errors import CaseError, CohortError
from radloom.images import Geometry, Volume
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import ModelDescription, Region, load_model, read_description, save_model
from radloom.nets.inplane import linear_matrix
from radloom.nets.net import Net
from radloom.nets.prediction import Member, Predictor, Settings
from radloom.nets.saliency import find_saliency
from radloom.nets.uncertainty import assess
from radloom.phantoms import draw_anatomy, draw_scanner, make_phantom
from radloom.segment import loaded_predictor, segment_model

GENERALISED = Architecture(
    kind="generalised_unet",
    dimensions=3,
    options={
        "down": [[2, 3], [4]],
        "down_kernels": [[[1, 3, 3], [3, 3, 3]], [[3, 3, 3]]],
        "up": [[3], []],
        "up_kernels": [[[3, 3, 1]], []],
        "pool": 2,
        "field": [6, 8, 10],
        "padding": "valid",
        "residual": True,
    },
)
REGION = Region("organ", neck_mm=0.0, margin=1, outside_hu=-150.0)


class Stand(Net):
    """A net of volumes whose logits are a function of its input without the border; it keeps what it saw."""

    multiple = (1, 1, 1)

    def __init__(self, function: Any, border: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__(Architecture(), 1)
        self.function, self.border = function, border
        self.seen: list[torch.Tensor] = []
        self.anywhere = nn.Parameter(torch.zeros(()))  # which tells the device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x[0, 0].clone())
        logits: torch.Tensor = self.function(x)
        return logits


def described(name: str, spacing: tuple[float, ...], **other: Any) -> ModelDescription:
    return ModelDescription(
        name=name,
        classes={1: name},
        spacing=spacing,
        hu_window=(-200.0, 200.0),
        normalisation=(0.0, 100.0),
        architecture=Architecture(dimensions=3),
        outputs="sigmoid",
        **{"outside_hu": 0.0, "overlap": 0.0, **other},
    )


def middle(x: torch.Tensor, border: tuple[int, int, int]) -> torch.Tensor:
    z, y, x_ = border
    return x[:, :, z : x.shape[2] - z or None, y : x.shape[3] - y or None, x_ : x.shape[4] - x_ or None]


def body() -> np.ndarray:
    """Organs of 100 HU, a large and a small one, in tissue of 10; the large one with a spot of 180 at its rim."""
    array = np.full((14, 24, 30), 10, np.int16)
    array[3:10, 5:17, 6:20] = 100
    array[11:13, 20:23, 25:28] = 100
    array[5:8, 8:12, 16:20] = 180
    array[5:8, 8:12, 27:30] = 180  # far from the organ: not to be seen
    return array


def looking(patch: tuple[int, int, int], border: tuple[int, int, int], spacing: tuple[float, ...]) -> Predictor:
    """A net that finds what is above 150 HU in organs, which another finds above 50."""
    finder = Stand(lambda x: 20 * (x - 0.5))
    organs = described("organ", (1.0, 1.0, 2.0), patch=(14, 24, 30))
    net = Stand(lambda x: 20 * (middle(x, border) - 1.5), border)
    spots = described("spot", spacing, patch=patch, region=REGION)
    region = Predictor([Member("organ", finder, organs)], Settings("cpu"))
    return Predictor([Member("spot", net, spots)], Settings("cpu"), region=region)


def test_the_net_sees_the_grown_organ_in_its_box_and_what_is_told_around() -> None:
    predictor = looking((20, 30, 40), (1, 2, 3), (1.0, 1.0, 2.0))
    labels = predictor.labels(body(), (1.0, 1.0, 2.0))
    organ = np.zeros(labels.shape, bool)
    organ[3:10, 5:17, 6:20] = True
    assert predictor.found is not None
    assert np.array_equal(predictor.found, organ), "the spot belongs to it, the smaller organ doesn't"
    grown = ndimage.binary_dilation(organ, ndimage.generate_binary_structure(3, 2))
    box = (slice(2, 11), slice(4, 18), slice(5, 21))
    assert grown[box].any(axis=(1, 2)).all()
    # A value is HU / 100. The box lies in the middle of the window, with 0 HU and the border around.
    inside = np.where(grown, body(), -150)[box] / 100
    expected = np.pad(inside, [(6, 7), (10, 10), (15, 15)])
    (seen,) = predictor.members[0].net.seen
    assert seen.numpy() == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(labels == 1, organ & (body() == 180))


@pytest.mark.parametrize("patch", [(3, 6, 5), (9, 14, 16)])
@pytest.mark.parametrize("border", [(0, 0, 0), (1, 2, 3)])
def test_windows_with_a_border_are_one_unpadded_convolution(patch: Any, border: Any) -> None:
    """Windows that see what lies around them give what the whole image gives, but for rounding."""
    torch.manual_seed(0)
    kernel = nn.Conv3d(1, 1, [2 * b + 1 for b in border]).requires_grad_(False)
    net = Stand(kernel, border)
    description = described("spot", (1.0, 1.0, 1.0), patch=patch)
    image = np.random.default_rng(0).normal(0, 80, (11, 14, 17)).astype(np.float32)
    predictor = Predictor([Member("spot", net, description)], Settings("cpu", mirrors=()))
    (scan,) = predictor.scans(image, (1.0, 1.0, 1.0))
    found = torch.cat([slab for _, slab in predictor.logits(scan)])[..., 0]
    padded = np.pad(np.clip(image, -200, 200) / 100, [(b, b) for b in border])
    assert found.numpy() == pytest.approx(kernel(torch.from_numpy(padded)[None, None])[0, 0].numpy(), abs=1e-5)
    assert len(net.seen) == {3: 4 * 3 * 4, 9: 2 * 1 * 2}[patch[0]]


def test_on_another_grid_labels_are_where_interpolated_probabilities_say() -> None:
    """The box on the net's grid, filled up with probabilities of 0, is interpolated as a whole volume is."""
    own, spacing = (1.0, 1.0, 2.0), (1.7, 1.3, 2.5)
    predictor = looking((4, 6, 8), (1, 1, 1), spacing)
    labels = predictor.labels(body(), own)
    (scan,) = predictor.scans(body(), own)
    probability = torch.cat([slab for _, slab in predictor.probabilities(scan)])[..., 0].double()
    # Where the box lies on the net's grid follows from the organ alone.
    mask = torch.from_numpy(predictor.found).double()
    whole = mask
    lengths = []
    for axis, (s, t) in enumerate(zip(own[::-1], spacing[::-1], strict=True)):
        length = int(np.ceil(mask.shape[axis] * s / t - 1e-6))
        lengths.append(length)
        matrix = linear_matrix(mask.shape[axis], s, length, t).double()
        whole = torch.tensordot(matrix, whole, dims=([1], [axis])).movedim(0, axis)
    grown = ndimage.binary_dilation(whole.numpy() > 0.5, ndimage.generate_binary_structure(3, 2))
    box = ndimage.find_objects(grown.astype(int))[0]
    field = torch.zeros(lengths, dtype=torch.float64)
    field[box] = probability
    for axis, (s, t) in enumerate(zip(own[::-1], spacing[::-1], strict=True)):
        matrix = linear_matrix(lengths[axis], t, mask.shape[axis], s).double()
        field = torch.tensordot(matrix, field, dims=([1], [axis])).movedim(0, axis)
    clear = (field - 0.5).abs() > 1e-5
    assert np.array_equal((labels == 1)[clear], (field > 0.5).numpy()[clear])
    assert 0 < np.count_nonzero(labels) < 200


def test_no_organ_and_one_smaller_than_a_voxel_exclude_the_case() -> None:
    with pytest.raises(CaseError, match="no organ was found"):
        looking((4, 6, 8), (0, 0, 0), (1.0, 1.0, 2.0)).labels(np.zeros((14, 24, 30), np.int16), (1.0, 1.0, 2.0))
    speck = np.zeros((14, 24, 30), np.int16)
    speck[5, 6, 7] = 100
    with pytest.raises(CaseError, match="smaller than a voxel"):
        looking((4, 6, 8), (0, 0, 0), (6.0, 6.0, 6.0)).labels(speck, (1.0, 1.0, 2.0))


def test_saliency_and_uncertainty_are_of_the_box() -> None:
    predictor = looking((4, 6, 8), (1, 2, 1), (1.0, 1.0, 2.0))
    spot = predictor.labels(body(), (1.0, 1.0, 2.0)) == 1
    saliency = find_saliency(predictor, body(), (1.0, 1.0, 2.0), [1])[1]
    assert saliency[spot].mean() > 0.6
    assert saliency[5:8, 8:12, 27:30].max() < 0.001  # the map is smoothed
    member = predictor.members[0]
    with pytest.raises(CohortError, match="can't be one of an ensemble"):
        Predictor([member, member], Settings("cpu"), region=predictor.region)
    predictor.members = [member, member]
    scores, maps = assess(predictor, body(), (1.0, 1.0, 2.0), 1, with_maps=True)
    assert scores["spot"].volume_ml == pytest.approx(np.count_nonzero(spot) * 0.002)
    assert scores["spot"].pairwise_dice == 1
    assert (maps["mean"][spot] > 40000).all()
    assert maps["mean"][:, :, 25:].max() == 0


@pytest.fixture
def model(tmp_path: Path, repo: Path) -> Path:
    """A net of random weights that looks into what the demonstration's net finds as organ."""
    torch.manual_seed(0)
    description = ModelDescription(
        name="spots",
        classes={1: "spot"},
        spacing=(3.0, 3.0, 3.0),
        hu_window=(-200.0, 200.0),
        architecture=GENERALISED,
        outputs="sigmoid",
        outside_hu=0.0,
        patch=(6, 8, 10),
        overlap=0.0,
        region=replace(REGION, neck_mm=3.0),
    )
    save_model(tmp_path / "model", build_net(GENERALISED, 1), description)
    shutil.copytree(repo / "resources" / "models" / "demo_unet", tmp_path / "model" / "region")
    return tmp_path / "model"


def test_a_folder_of_two_nets_segments_and_both_count_for_the_key(model: Path, repo: Path) -> None:
    rng = np.random.default_rng(3)
    phantom = make_phantom(draw_anatomy(rng), draw_scanner(rng), rng)
    array = phantom.image[len(phantom.image) // 2 - 3 :][:6]
    z, y, x = array.shape
    image = Volume(array, Geometry((x, y, z), phantom.spacing, (0.0, 0.0, 0.0)))
    found = segment_model(image, model, Settings("cpu"))
    assert found.names == {1: "spot", 2: "organ"}
    region = loaded_predictor(model, Settings("cpu")).found
    organ = segment_model(image, repo / "resources" / "models" / "demo_unet", Settings("cpu")).labels.array == 1
    assert region is not None
    assert np.array_equal(region & ~organ, np.zeros_like(organ))
    assert np.count_nonzero(region) > 0.9 * np.count_nonzero(organ)
    assert np.array_equal(found.labels.array == 2, region & (found.labels.array != 1))

    before = resource_hash(model), loaded_predictor(model, Settings("cpu"))
    weights = load_model(model / "region")
    description = read_description(model / "region")[0]
    for parameter in weights[0].parameters():
        parameter.data *= 1.01
    save_model(model / "region", weights[0], description)
    assert resource_hash(model) != before[0]
    assert loaded_predictor(model, Settings("cpu")) is not before[1]


def test_a_folder_whose_region_does_not_fit_is_refused(model: Path) -> None:
    path = model / "model.json"
    told = json.loads(path.read_text())
    for region, reason in (
        ({**told["region"], "label": "liver"}, "finds organ, tumour, and not liver"),
        ({**told["region"], "label": "spot"}, "the name of one of its classes"),
        ({**told["region"], "margin": 1.5}, "region.margin is not a whole number"),
        ({**told["region"], "neck_mm": -1}, "region.neck_mm is negative"),
        ({**told["region"], "depth": 1}, "keys that this version doesn't know: depth"),
        ([], "region is no JSON object"),
    ):
        path.write_text(json.dumps(told | {"region": region}))
        with pytest.raises(CohortError, match=reason):
            loaded_predictor(model, Settings("cpu"))
    path.write_text(json.dumps(told))
    shutil.rmtree(model / "region")
    with pytest.raises(CohortError, match=r"'region' can't be used: it has no model.json"):
        loaded_predictor(model, Settings("cpu"))
