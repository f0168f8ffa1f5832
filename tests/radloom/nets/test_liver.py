"""The imported liver net: every weight where it belongs, the same logits as Keras, and livers found in real scans."""

import hashlib
import zipfile
from pathlib import Path

import keras_liver
import numpy as np
import pytest
import torch

from radloom.images import Volume, from_sitk
from radloom.nets.folder import Region, load_model, read_description
from radloom.nets.generalised_unet import GeneralisedUNet
from radloom.nets.liver import SOURCES, import_model
from radloom.nets.prediction import Settings
from radloom.postprocess import Morphology, postprocess
from radloom.postprocess import Settings as Cleaning
from radloom.segment import segment_model

LIVER = 5  # of TotalSegmentator's labels


FORWARD = {"liver": keras_liver.forward, "lesion": keras_liver.forward_lesion}
SIZES = {"liver": (27, 54, 54), "lesion": (46, 92, 92)}
"""Small images (z, y, x) that the nets give logits for."""
LESION_WEIGHTS = keras_liver.random_weights(2, keras_liver.LESION_KERNELS)


def unpacked(folder: Path, lesion: dict[str, object] | None = None, **changes: object) -> Path:
    """A folder as the wheel unpacks, with random weights; `lesion` changes the lesion net, the others the liver's."""
    models = folder / "pyliverlesionseg/trained_models"
    models.mkdir(parents=True)
    name = "model_unet_ct_mr_liv_seg_resize_1.5mm_med_3_resize_3mm.hdf5"
    keras_liver.write_keras(models / name, **{"weights": keras_liver.random_weights(1), **changes})
    known = {"weights": LESION_WEIGHTS, "kinds": keras_liver.LESION_KINDS, "spacing": (1, 1, 3)}
    keras_liver.write_keras(models / name.replace("liv", "lesion"), **{**known, **(lesion or {})})
    (folder / "pyliverlesionseg-0.3.dist-info").mkdir()
    (folder / "pyliverlesionseg-0.3.dist-info/LICENSE").write_text("Apache License")
    return folder


def assert_equals_keras(net: GeneralisedUNet, weights: keras_liver.Weights, which: str = "liver") -> None:
    """Each convolution's output and the logits are Keras' own, for an image without symmetry."""
    image = np.random.default_rng(2).uniform(-0.5, 0.5, SIZES[which]).astype(np.float32)  # z, y, x in LPS
    layers: list[np.ndarray] = []
    handles = [
        convolution.register_forward_hook(lambda _module, _in, out: layers.append(out[0].numpy()))
        for convolution in net.convolutions()
    ]
    with torch.no_grad():
        logits = net.logits_inside(torch.from_numpy(image)[None, None])[0, 0].numpy()
    for handle in handles:
        handle.remove()
    expected: list[np.ndarray] = []
    as_ras = image.transpose(2, 1, 0)[::-1, ::-1]
    reference = FORWARD[which](as_ras, weights, expected.append)
    assert len(layers) == len(expected) == len(weights)
    for number, (found, wanted) in enumerate(zip(layers, expected, strict=True), 1):
        turned = wanted[::-1, ::-1].transpose(3, 2, 1, 0)
        # float32 against float64, after up to 15 convolutions in a row of up to 8640 products each
        assert np.abs(found - turned).max() <= 1e-4 * np.abs(turned).max(), f"conv3d_{number}"
    assert logits.shape == {"liver": (1, 28, 28), "lesion": (2, 4, 4)}[which]
    assert np.abs(logits - reference[::-1, ::-1].transpose(2, 1, 0)).max() < 1e-4 * np.abs(reference).max()


def test_random_weights_give_the_logits_that_keras_gives(tmp_path: Path) -> None:
    import_model(unpacked(tmp_path / "source"), tmp_path / "liver")
    net, description = load_model(tmp_path / "liver")
    assert isinstance(net, GeneralisedUNet)
    assert_equals_keras(net, keras_liver.random_weights(1))
    assert description.classes == {1: "liver"}
    assert (description.spacing, description.patch) == ((3.0, 3.0, 3.0), (136, 136, 163))
    # clip(HU / 1000, -0.2, 0.2) * 2.5
    low, high = (value / description.normalisation[1] for value in description.hu_window)
    assert (low, high, description.normalisation[0], description.outside_hu) == (-0.5, 0.5, 0.0, 0.0)


def test_the_lesion_net_gives_the_logits_that_keras_gives(tmp_path: Path) -> None:
    import_model(unpacked(tmp_path / "source"), tmp_path / "lesion", "lesion")
    net, description = load_model(tmp_path / "lesion")
    assert isinstance(net, GeneralisedUNet)
    assert_equals_keras(net, LESION_WEIGHTS, "lesion")
    assert (description.spacing, description.patch, net.border) == ((1.0, 1.0, 3.0), (42, 84, 92), (22, 44, 44))
    # The package's input has 180 x 172 x 86 voxels, and -0.5 outside of the grown liver.
    assert net.structure.size_in(description.patch) == [86, 172, 180]
    assert description.region == Region("liver", 6.0, 2, -200.0)
    assert read_description(tmp_path / "lesion" / "region")[0].classes == {1: "liver"}


@pytest.mark.parametrize("which", ["liver", "lesion"])
def test_every_weight_of_the_file_is_used_once(tmp_path: Path, which: str) -> None:
    weights = {"liver": keras_liver.random_weights(1), "lesion": LESION_WEIGHTS}[which]
    import_model(unpacked(tmp_path / "source"), tmp_path / "model", which)
    net, _ = load_model(tmp_path / "model")
    in_file = np.concatenate([part.ravel() for pair in weights for part in pair])
    in_net = np.concatenate([tensor.numpy().ravel() for tensor in net.state_dict().values()])
    # Random numbers: each occurs once, so that equal sorted lists mean that none is missing or taken twice.
    assert np.array_equal(np.sort(in_file), np.sort(in_net))


def test_a_wheel_and_its_folder_give_the_same_model(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "source")
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    for source in (folder, wheel):
        import_model(source, tmp_path / f"from-{source.name}")
    first, second = (tmp_path / f"from-{source.name}" for source in (folder, wheel))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (second / "LICENSE").read_text() == "Apache License"
    training = read_description(second)[0].training
    assert training["wheel_sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert training["weights_sha256"] == read_description(first)[0].training["weights_sha256"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kinds": [k for k in keras_liver.KINDS if k != "lambda"]}, "layers are not those"),
        ({"kinds": [k for k in keras_liver.KINDS if k != "average_pooling3d"]}, "layers are not those"),
        ({"spacing": (1, 1, 3)}, "works at"),
        ({"weights": [(k.swapaxes(3, 4), b) for k, b in keras_liver.random_weights(1)]}, "conv3d_1 has the shape"),
        ({"weights": [(k[..., :1], b) for k, b in keras_liver.random_weights(1)]}, "conv3d_1 has the shape"),
    ],
)
def test_files_that_hold_another_net(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        import_model(unpacked(tmp_path / "source", **changes), tmp_path / "liver")
    assert not (tmp_path / "liver").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": [k for k in keras_liver.LESION_KINDS if k != "add"]},
        {"kinds": [*keras_liver.LESION_KINDS, "average_pooling3d"]},
        {"kinds": keras_liver.KINDS, "weights": keras_liver.random_weights(1)},
    ],
)
def test_files_that_hold_another_lesion_net(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="layers are not those"):
        import_model(unpacked(tmp_path / "source", lesion=changes), tmp_path / "lesion", "lesion")


def test_sources_that_are_no_wheel(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 files"):
        import_model(tmp_path / "empty", tmp_path / "liver")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="no wheel and no folder"):
        import_model(tmp_path / "text", tmp_path / "liver")
    source = unpacked(tmp_path / "source")
    next(source.rglob("*liv_seg*.hdf5")).write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="no HDF5 file"):
        import_model(source, tmp_path / "liver")


@pytest.fixture(scope="module")
def liver_model(liver_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("liver") / "model"
    import_model(liver_wheel, folder)
    return folder


@pytest.mark.parametrize("which", ["liver", pytest.param("lesion", marks=pytest.mark.slow)])
def test_the_trained_net_gives_the_logits_that_keras_gives(liver_wheel: Path, tmp_path: Path, which: str) -> None:
    with zipfile.ZipFile(liver_wheel) as archive:
        name = next(name for name in archive.namelist() if SOURCES[which].weights.search(name))
        (tmp_path / "weights.hdf5").write_bytes(archive.read(name))
    import_model(liver_wheel, tmp_path / "model", which)
    assert_equals_keras(load_model(tmp_path / "model")[0], keras_liver.read_keras(tmp_path / "weights.hdf5"), which)


def dice_coefficient(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth))


def cleaned(labels: Volume) -> np.ndarray:
    """The largest part, as docs/segmentation.md advises."""
    own = Morphology(components="largest", neck_mm=6, fill_holes=True)
    return postprocess(labels, {1: "liver"}, Cleaning({"liver": own})).labels.array > 0


def read_volume(*paths: Path) -> Volume:
    import SimpleITK as sitk

    return from_sitk(sitk.ReadImage([str(path) for path in paths] if len(paths) > 1 else str(paths[0])))


@pytest.mark.slow
def test_the_trained_net_finds_the_liver_of_the_torso(liver_model: Path, shared_data: Path) -> None:
    image = read_volume(shared_data / "segmentation/torso_ct.nii.gz")
    truth = read_volume(shared_data / "segmentation/torso_labels.nii.gz").array == LIVER
    labels = segment_model(image, {"liver": liver_model}, Settings("cpu")).labels
    assert dice_coefficient(labels.array == 1, truth) >= 0.85
    assert dice_coefficient(cleaned(labels), truth) >= 0.95


@pytest.mark.slow
def test_the_trained_net_finds_the_liver_of_a_dicom_series(liver_model: Path, shared_data: Path) -> None:
    image = read_volume(*sorted((shared_data / "segmentation/liver_ct_dicom").glob("*.dcm")))
    labels = segment_model(image, {"liver": liver_model}, Settings("cpu")).labels
    found = cleaned(labels)
    # There is no truth for it. Seen by eye, the contour follows the liver, of about 1280 ml; nothing else was found.
    assert 1200 < np.count_nonzero(found) * image.geometry.voxel_mm3 / 1000 < 1360
    assert dice_coefficient(found, labels.array == 1) > 0.98
