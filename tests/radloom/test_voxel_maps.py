"""A voxel's value is the ordinary feature of its neighbourhood; a map lies where the image lies."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from radloom.errors import CaseError
from radloom.feature_params import FEATURES, SHAPE_CLASSES, FeatureParams, map_features
from radloom.images import Geometry, Volume, nearest_rotation, read_nifti, to_sitk
from radloom.map_pictures import COLOURS, GREYS, colour_range, draw_map
from radloom.voxel_maps import PICTURE, VoxelMap, voxel_maps, write_maps

WIDTH = 70
PARAMS = FeatureParams({"binWidth": WIDTH}, {"Original": {}}, {})
CLASSES = [name for name in FEATURES if name not in SHAPE_CLASSES]
EVERYTHING = [f"{name}_{feature}" for name in CLASSES for feature in FEATURES[name]]
SPACING = (0.8, 1.0, 2.5)


def _geometry(shape: tuple[int, ...]) -> Geometry:
    axes = nearest_rotation(np.array([[1, 0.1, 0], [-0.1, 1, 0.05], [0, -0.05, 1]]))
    return Geometry((shape[2], shape[1], shape[0]), SPACING, (-30.0, 12.0, 400.0), tuple(axes.ravel().tolist()))


@pytest.fixture(scope="module")
def case() -> tuple[Volume, Volume]:
    """Three grey levels, and an ROI with a body, a thin plate, a line and a voxel on its own; one end at the border."""
    shape = (9, 12, 11)
    image = np.random.default_rng(0).choice([10, 80, 150], shape).astype(np.int16)
    roi = np.zeros(shape, dtype=np.uint8)
    roi[3:6, 2:5, 0:4] = 1
    roi[4, 2:9, 2:7] = 1
    roi[4:8, 8, 6] = 1
    roi[1, 10, 9] = 1
    roi[7:9, 0:3, 8:11] = 2
    return Volume(image, _geometry(shape)), Volume(roi, _geometry(shape))


def _maps(case: tuple[Volume, Volume], names: list[str], **how: object) -> tuple[dict[str, np.ndarray], list[str]]:
    made = list(voxel_maps(*case, {1: "tumour"}, PARAMS, names, **how))  # type: ignore[arg-type]
    maps = {one.column: one.volume.array for one in made if isinstance(one, VoxelMap)}
    return maps, [one for one in made if isinstance(one, str)]


def _ordinary(values: np.ndarray, mask: np.ndarray, name: str) -> dict[str, float]:
    """All features of a class by PyRadiomics' ordinary extraction from a small image and its mask."""
    import radiomics

    geometry = Geometry((values.shape[2], values.shape[1], values.shape[0]), SPACING, (0.0, 0.0, 0.0))
    image, inside = (to_sitk(Volume(np.ascontiguousarray(array), geometry)) for array in (values, mask))
    extractor = radiomics.getFeatureClasses()[name](image, inside, binWidth=WIDTH, label=1)
    for feature in FEATURES[name]:
        extractor.enableFeatureByName(feature)
    return {feature: float(value) for feature, value in extractor.execute().items()}


@pytest.mark.parametrize(("masked", "radius"), [(True, 1), (False, 1), (True, 2)])
def test_a_voxel_has_the_feature_of_its_neighbourhood(case: tuple[Volume, Volume], masked: bool, radius: int) -> None:
    """Every feature of every class at every voxel whose neighbourhood has the ROI's lowest and highest grey level."""
    image, roi = case[0].array, case[1].array == 1
    maps, _ = _maps(case, EVERYTHING, masked_kernel=masked, kernel_radius=radius)
    assert set(maps) == {f"original_{name}" for name in EVERYTHING}
    compared = 0
    for place in np.argwhere(roi):
        around = tuple(slice(max(at - radius, 0), at + radius + 1) for at in place)
        values = image[around]
        mask = roi[around] if masked else np.ones_like(roi[around])
        if values[mask].min() != 10 or values[mask].max() != 150:
            continue
        compared += 1
        with np.errstate(all="ignore"):
            for name in CLASSES:
                for feature, expected in _ordinary(values, mask.astype(np.uint8), name).items():
                    found = maps[f"original_{name}_{feature}"][tuple(place)]
                    # Maps are float32.
                    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), (feature, place)
    assert compared > 50


def test_the_number_of_voxels_at_once_changes_nothing(case: tuple[Volume, Volume]) -> None:
    whole, notes = _maps(case, EVERYTHING, batch=10**6)
    for batch in (1, 7):
        parts, same = _maps(case, EVERYTHING, batch=batch)
        assert same == notes
        for column, values in whole.items():
            assert np.array_equal(values, parts[column], equal_nan=True), column


def test_a_voxel_without_a_value_is_empty_and_said_so(case: tuple[Volume, Volume]) -> None:
    maps, notes = _maps(case, ["glcm_Contrast", "glcm_MCC", "glcm_JointAverage", "firstorder_Mean"])
    alone = (1, 10, 9)  # has no neighbour, so no pair of grey levels
    for name in ("Contrast", "JointAverage"):
        values = maps[f"original_glcm_{name}"]
        assert np.isnan(values[alone])
        assert np.isfinite(values).sum() == (case[1].array == 1).sum() - 1
    assert maps["original_firstorder_Mean"][alone] == case[0].array[alone]
    count = int((case[1].array == 1).sum())
    assert f"tumour: original_glcm_Contrast: 1 of {count} voxels have no value" in notes
    # Nothing outside of the ROI has a value, not even 0.
    assert all(np.isnan(values[case[1].array != 1]).all() for values in maps.values())


def test_maps_of_a_filtered_image(case: tuple[Volume, Volume]) -> None:
    """Of the first order in a kernel that covers the whole ROI: the ordinary feature of the filtered image."""
    from radloom.extract import extract_features

    types: dict[str, dict[str, object]] = {"Original": {}, "LoG": {"sigma": [1.5, 3.0], "binWidth": 5}, "Wavelet": {}}
    columns = ["log-sigma-3-0-mm-3D_firstorder_Mean", "wavelet-LLH_firstorder_Entropy", "firstorder_Median"]
    features = {"firstorder": ("Mean", "Entropy", "Median")}
    params = FeatureParams({"binWidth": 9, "minimumROIDimensions": 1}, types, features)
    assert map_features(columns, params) == (
        {
            "LoG": {"firstorder": [columns[0]]},
            "Wavelet": {"firstorder": [columns[1]]},
            "Original": {"firstorder": ["original_firstorder_Median"]},
        },
        [],
    )
    made = list(voxel_maps(*case, {1: "tumour", 2: "node"}, params, columns, rois=["node"], kernel_radius=3))
    whole = extract_features(*case, {2: "node"}, params)
    expected = dict(zip(whole.columns, whole.rows["node"], strict=True))
    assert len(made) == 3
    for one in made:
        assert isinstance(one, VoxelMap)
        assert one.roi == "node"
        assert one.volume.array[case[1].array == 2] == pytest.approx(expected[one.column], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("glcm_Kontrast", "unknown feature; did you mean glcm_Contrast?"),
        ("shape_MeshVolume", "has no map"),
        ("wavelet-LLH_glcm_Idm", "the parameter file makes no image wavelet-LLH"),
        ("Contrast", "unknown feature"),
    ],
)
def test_names_that_can_not_be_mapped(name: str, problem: str) -> None:
    found, problems = map_features([name, "glcm_Idm", "original_glcm_Idm"], PARAMS)
    assert found == {"Original": {"glcm": ["original_glcm_Idm"]}}
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}: ")
    assert problem in problems[0]


def test_what_can_not_be_mapped_is_said(case: tuple[Volume, Volume]) -> None:
    image, roi = case
    wild = Volume(image.array.astype(np.float32) * 5000, image.geometry)
    (note,) = voxel_maps(wild, roi, {1: "tumour"}, PARAMS, ["glcm_Contrast"])
    assert isinstance(note, str)
    assert note.startswith("tumour: original_glcm_Contrast: no map: the values from 50000 to 750000 make 10001 grey")
    (note,) = voxel_maps(image, roi, {3: "liver"}, PARAMS, ["glcm_Contrast"])
    assert note == "liver: the ROI is empty, it has no maps"
    line = np.zeros_like(roi.array)
    line[4, 4, 4] = 1
    (note,) = voxel_maps(image, Volume(line, roi.geometry), {1: "dot"}, PARAMS, ["glcm_Contrast"])
    assert isinstance(note, str)
    assert note.startswith("dot: original_glcm_Contrast: no map: ")
    moved = Geometry(roi.geometry.size, roi.geometry.spacing, (0.0, 0.0, 0.0))
    with pytest.raises(CaseError, match="one grid"):
        list(voxel_maps(image, Volume(roi.array, moved), {1: "tumour"}, PARAMS, ["glcm_Contrast"]))


def test_memory_is_bounded_by_the_batch() -> None:
    import tracemalloc

    shape = (12, 24, 24)
    rng = np.random.default_rng(1)
    image = Volume(rng.integers(0, 64 * 25, shape).astype(np.int16), _geometry(shape))
    roi = np.zeros(shape, dtype=np.uint8)
    roi[2:-2, 2:-2, 2:-2] = 1
    params = FeatureParams({"binWidth": 25}, {"Original": {}}, {})
    tracemalloc.start()
    list(voxel_maps(image, Volume(roi, image.geometry), {1: "tumour"}, params, ["glcm_Contrast"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All at once would be 1.4 GB for the matrices alone: 3,200 voxels, 64 x 64 pairs of levels, 13 directions.
    assert peak < 5 * 128 * 2**20


def test_files_lie_where_the_image_lies(case: tuple[Volume, Volume], tmp_path: Path) -> None:
    image, roi = case
    maps = voxel_maps(image, roi, {1: "tumour", 2: "node"}, PARAMS, ["firstorder_Mean", "firstorder_Entropy"])
    facts, notes = write_maps(tmp_path, image, maps, (-100, 200))
    assert notes == []
    names = [f"{name}_original_firstorder_{feature}" for name in ("node", "tumour") for feature in ("Entropy", "Mean")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(f"{name}.nii.gz" for name in names), PICTURE])
    path = tmp_path / "tumour_original_firstorder_Mean.nii.gz"
    volume = read_nifti(path)
    assert volume.array.dtype == np.float32
    assert volume.geometry.size == image.geometry.size
    assert np.abs(volume.geometry.corners() - image.geometry.corners()).max() < 1e-4
    itk = sitk.ReadImage(str(path))
    assert np.allclose(itk.GetOrigin(), image.geometry.origin, atol=1e-4)
    assert np.allclose(itk.GetDirection(), image.geometry.direction, atol=1e-6)
    # NaN in the file; ITK's reader makes it 0.
    assert np.isnan(np.asarray(nib.load(path).dataobj)).sum() == (roi.array != 1).sum()
    assert (sitk.GetArrayFromImage(itk)[roi.array != 1] == 0).all()
    known = volume.array[roi.array == 1]
    assert facts["tumour"]["original_firstorder_Mean"] == {
        "voxels": known.size,
        "minimum": float(known.min()),
        "median": float(np.median(known)),
        "maximum": float(known.max()),
    }
    assert set(facts) == {"tumour", "node"}


def test_the_picture_shows_each_voxel_in_its_colour() -> None:
    shape = (4, 8, 10)
    geometry = Geometry((10, 8, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    values = np.full(shape, np.nan, dtype=np.float32)
    values[1, 2:5, 3:8] = np.linspace(1, 15, 15).reshape(3, 5)
    assert colour_range(values) == pytest.approx(np.percentile(np.arange(1, 16), [2, 98]))
    assert colour_range(np.full(3, np.nan)) == (0, 1)
    picture = draw_map(Volume(np.full(shape, 50, np.int16), geometry), values, "tumour · glcm", (0, 100))
    pixels = np.asarray(picture)
    top = pixels.shape[0] - 144  # the axial plane, 18 pixels a voxel, below the title
    for y, x in itertools.product(range(8), range(10)):
        found = int(pixels[top + 18 * y + 9, 18 * x + 9])
        low, high = colour_range(values)
        if np.isnan(values[1, y, x]):
            letter = (y, x) in {(4, 0), (4, 9), (3, 0), (3, 9), (0, 4), (0, 5), (7, 4), (7, 5)}
            assert letter or found == round(0.5 * (GREYS - 1)), (y, x)
        else:
            share = np.clip((values[1, y, x] - low) / (high - low), 0, 1)
            assert found == GREYS + round(float(share) * (COLOURS - 1))
    flat = np.where(np.isnan(values), np.nan, 3.0).astype(np.float32)
    assert isinstance(draw_map(Volume(np.zeros(shape), geometry), flat, "flat", (0, 100)), Image.Image)
