"""The images and ROIs on which extraction is measured, each written as two NIfTI files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from benchmarks.workflow_runs import REPO
from radloom.images import Array, Geometry, Volume, from_sitk, write_nifti
from radloom.resample import resample_image, resample_mask

STS = REPO.parent / "shared" / "data" / "sts"
# The folder `data` of the sdist `pyradiomics-bhklab` (or `pyradiomics`), which wheels don't hold.
PYRADIOMICS_DATA = REPO / ".venv" / "pyradiomics-data"
LIVER_VOXELS = 1_500_000
HU_OF_ALL = (-1024, 3071)


@dataclass(frozen=True)
class Case:
    """One image and its ROI (label 1) as files, and what they are."""

    name: str
    image: Path
    mask: Path
    voxels: int
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def described(self) -> str:
        """Return the ROI's voxels, the image's size (x, y, z) and spacing (mm) as a phrase."""
        size = " x ".join(str(n) for n in self.size)
        spacing = " x ".join(f"{mm:.3g}" for mm in self.spacing)
        return f"{self.voxels:,} voxels in an image of {size} at {spacing} mm"


def make_cases(folder: Path, pyradiomics_data: Path, small: bool) -> tuple[list[Case], list[str]]:
    """Write the cases into `folder`; return them and why others are left out. `small` makes the small ones alone."""
    makers: dict[str, Callable[[], tuple[Volume, Volume]]] = {
        "small tumour": lambda: _tumour("STS_041"),
        "lung1": lambda: _lung(pyradiomics_data),
        "large tumour": lambda: _tumour("STS_009"),
        "liver CT": liver_ct,
    }
    cases, absent = [], []
    for name in list(makers)[: 2 if small else None]:
        try:
            image, mask = makers[name]()
        except FileNotFoundError as error:
            absent.append(f"{name}: {error}")
            continue
        stem = name.replace(" ", "_")
        paths = folder / f"{stem}.nii.gz", folder / f"{stem}_mask.nii.gz"
        for path, volume in zip(paths, (image, mask), strict=True):
            write_nifti(path, volume)
        voxels = int(np.count_nonzero(mask.array))
        cases.append(Case(name, *paths, voxels, image.geometry.size, image.geometry.spacing))
    return cases, absent


def _tumour(patient: str) -> tuple[Volume, Volume]:
    """A soft-tissue sarcoma and its mask as the step `resample` leaves them at 1 mm (float32, uint8)."""
    image = STS / "images" / f"{patient}.nii.gz"
    if not image.is_file():
        raise FileNotFoundError("the reference data are not at ../shared/data")
    spacing = (1.0, 1.0, 1.0)
    mask, _ = resample_mask(_read(STS / "masks" / image.name, np.uint8), spacing)
    return resample_image(_read(image, np.int16), spacing, "bspline"), mask


def _lung(folder: Path) -> tuple[Volume, Volume]:
    """The lung tumour that comes with PyRadiomics, on its own grid; its image is int16, its spacing anisotropic."""
    image, mask = folder / "lung1_image.nrrd", folder / "lung1_label.nrrd"
    if not image.is_file():
        raise FileNotFoundError(f"PyRadiomics' own data are not at {folder}")
    return _read(image, np.int16), _read(mask, np.uint8)


def liver_ct() -> tuple[Volume, Volume]:
    """A CT of 512 x 512 x 300 voxels (int16 HU) with an ROI of the size of a liver: smooth texture and noise.

    The ROI is the inside of a wavy ellipsoid, cut so that it has just `LIVER_VOXELS` voxels.
    """
    rng = np.random.default_rng(0)
    shape, spacing = (300, 512, 512), (0.78125, 0.78125, 1.5)
    coarse = [
        ndimage.zoom(rng.normal(0, sd, [n // step for n in (304, 512, 512)]), step, order=1)
        for sd, step in ((12, 16), (8, 8))
    ]
    texture = sum(part[: shape[0]].astype(np.float32) for part in coarse)
    noise = rng.standard_normal(shape, dtype=np.float32) * 12
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    radius = (((z - 160) / 62) ** 2 + ((y - 250) / 100) ** 2 + ((x - 200) / 125) ** 2).astype(np.float32)
    radius = radius + texture / 150
    limit = np.partition(radius.ravel(), LIVER_VOXELS - 1)[LIVER_VOXELS - 1]
    mask = radius <= limit
    body = ((y - 256) / 190) ** 2 + ((x - 256) / 240) ** 2 <= 1
    hu = np.where(mask, 60, np.where(body, -20, -1000)) + texture + noise
    image = np.clip(np.rint(hu), *HU_OF_ALL).astype(np.int16)
    geometry = Geometry((shape[2], shape[1], shape[0]), spacing, (0.0, 0.0, 0.0))
    return Volume(image, geometry), Volume(mask.astype(np.uint8), geometry)


def _read(path: Path, dtype: type[np.generic]) -> Volume:
    volume = from_sitk(sitk.ReadImage(str(path)))
    array: Array = volume.array.astype(dtype)
    return Volume(array, volume.geometry)
