"""Perturbations of image and ROI that tell how stable features are, after Zwanenburg et al. (Sci Rep 9:614, 2019).

Their chain, in their order: noise of the level that the image has, a rotation and a shift of the grid, a change of the
ROI's volume, and a contour drawn anew along supervoxels. docs/stability.md says where this departs from the paper, and
why. What is drawn follows from the case's own image and ROI and from the number of the perturbation alone.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage, sparse

from radloom.axis_matrices import gaussian_matrix, sinc_weights
from radloom.calibrate import Calibration, calibrate_image
from radloom.errors import CaseError
from radloom.extract import extract_features
from radloom.feature_params import FeatureParams, feature_columns
from radloom.images import Array, Box, Geometry, Vector, Volume, bounding_box, crop, crop_geometry
from radloom.resample import LINEAR, Sampling
from radloom.supervoxels import supervoxels

PARAMETERS = ("angle_deg", "shift_x", "shift_y", "shift_z", "volume_change", "noise_hu", "voxels", "dice")

# Zwanenburg's own software (MIRP) cuts supervoxels of 500 mm3, at least 20 voxels, with this compactness, from
# intensities that are scaled to the ROI's range and a tenth more on both sides. Three such pieces would make up an ROI
# of 1.5 ml, so here an ROI below 25 ml has smaller ones.
SUPERVOXEL_MM3 = 500.0
SUPERVOXEL_VOXELS = 20
SUPERVOXELS_IN_ROI = 50
COMPACTNESS = 0.05
RANGE_MARGIN = 0.1
# A supervoxel with a larger part of it inside the ROI is always taken, one with a smaller part never.
SURELY_IN, SURELY_OUT = 0.9, 0.2
# Voxels beyond those interpolated that the prefilter of the B-spline sees: its weights fall to 1e-9 of the first.
_PREFILTER_MARGIN = 16
_LONG_PREFILTER_MARGIN = 26  # of the orders 4 and 5
_FILTER_MARGIN = 8.0  # standard deviations of a Gaussian that comes before the interpolation
_MASK_ROUNDING = 1e-6
_MAD_OF_NORMAL = 0.6744897501960817  # median of |x| of a standard normal x


@dataclass(frozen=True)
class Amplitudes:
    """How far a perturbation may go; the section `perturb` of the configuration explains them."""

    rotation: float = 0.0
    shift: float = 0.0
    volume: float = 0.0
    noise: float = 0.0
    contour: bool = False


@dataclass(frozen=True)
class Perturbation:
    """What one perturbation does: rotation in degrees, shift (x, y, z) in voxels, relative change of the volume."""

    number: int
    angle_deg: float
    shift: Vector
    volume_change: float


@dataclass(frozen=True)
class Chain:
    """How an unperturbed image became what features are extracted from: interpolation, then calibration."""

    sampling: Sampling
    calibration: Calibration
    round_hu: bool


@dataclass(frozen=True)
class Perturbed:
    """A perturbed image in true HU and its ROI (0 and 1), both on the perturbed grid, and how they came about."""

    image: Volume
    roi: Volume
    facts: dict[str, float]


def draw(seed: bytes, number: int, amplitudes: Amplitudes) -> Perturbation:
    """Draw the numbers of a perturbation, uniformly within the amplitudes."""
    angle, x, y, z, volume = _random(seed, number, "numbers").uniform(-1, 1, 5).tolist()
    shift = (x * amplitudes.shift, y * amplitudes.shift, z * amplitudes.shift)
    return Perturbation(number, angle * amplitudes.rotation, shift, volume * amplitudes.volume)


def _random(seed: bytes, number: int, what: str) -> np.random.Generator:
    """A generator of its own for each perturbation and each of its parts, so that one part doesn't move another."""
    digest = hashlib.sha256(seed + f"{number}:{what}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


class Scene:
    """One ROI of a case, ready to be perturbed: what all perturbations share is computed once."""

    def __init__(self, source: Volume, roi: Volume, label: int, chain: Chain, amplitudes: Amplitudes) -> None:
        """source: the image before resampling and calibration, (z, y, x). roi: label numbers on the resampled grid,
        whose axes are the source's. Raises CaseError for an empty ROI.
        """
        self.source, self.chain, self.amplitudes = source, chain, amplitudes
        whole = roi.array == label
        tight = bounding_box(whole)
        if tight is None:
            raise CaseError("the ROI is empty", "check the segmentation and the volume limits of the post-processing")
        self.voxels = int(np.count_nonzero(whole[tight]))
        volume = self.voxels * roi.geometry.voxel_mm3
        radius = (3 * volume / (4 * math.pi)) ** (1 / 3)
        most = min(SUPERVOXEL_MM3, volume / SUPERVOXELS_IN_ROI)
        self.cell_mm3 = max(most, SUPERVOXEL_VOXELS * roi.geometry.voxel_mm3)
        # A ball's surface moves farthest: by less than half the part of its radius that its volume changes by.
        self.reach = amplitudes.volume * radius / 2 + (1.5 * self.cell_mm3 ** (1 / 3) if amplitudes.contour else 0)
        around = _wider(tight, [math.ceil(self.reach / step) + 1 for step in roi.geometry.spacing], whole.shape)
        self.mask = Volume(whole[around], crop_geometry(roi.geometry, around))
        seen = _index_box(source.geometry, crop_geometry(roi.geometry, tight))
        self.seed = _digest(source.array[seen], whole[tight], roi.geometry.spacing)
        margin = [_PREFILTER_MARGIN, _PREFILTER_MARGIN, 0]
        self.noise_sd = estimate_noise(source.array[_wider(seen, margin, source.array.shape)])

    @functools.cached_property
    def distance(self) -> Array:
        """Signed distance in mm to the ROI's surface, (z, y, x): negative inside."""
        import edt

        steps = self.mask.geometry.spacing[::-1]
        inside = self.mask.array
        outward = edt.edt(~inside, anisotropy=steps, black_border=False)
        return np.asarray(outward - edt.edt(inside, anisotropy=steps, black_border=False))

    @functools.cached_property
    def pieces(self) -> Array:
        """Supervoxels of the unperturbed image near the ROI's surface, -1 elsewhere."""
        grid = self.mask.geometry
        image = ndimage.gaussian_filter(
            self._interpolated(grid, None), [min(grid.spacing) / s for s in grid.spacing[::-1]]
        )
        inside = image[self.mask.array]
        span = max(float(np.ptp(inside)), 1e-9)
        low = float(inside.min()) - RANGE_MARGIN * span
        scaled = np.clip((image - low) / (span * (1 + 2 * RANGE_MARGIN)), 0, 1)
        near = np.abs(self.distance) <= self.reach
        return supervoxels(scaled, near, grid.spacing, self.cell_mm3, COMPACTNESS)

    def perturbed(self, perturbation: Perturbation, margin_mm: float) -> Perturbed:
        """The perturbed ROI, and the image around it by `margin_mm` on each side."""
        mask = self.mask.array
        if perturbation.volume_change:
            mask = change_volume(
                self.distance,
                round((1 + perturbation.volume_change) * self.voxels),
                _random(self.seed, perturbation.number, "volume"),
            )
        if self.amplitudes.contour:
            mask = randomise_contour(mask, self.pieces, _random(self.seed, perturbation.number, "contour"))
        roi = Volume(mask, self.mask.geometry)
        grid = perturbed_grid(roi, perturbation, margin_mm)
        image = self._interpolated(grid, perturbation)
        shown, _ = calibrate_image(
            Volume(image.astype(np.float32), grid), self.chain.calibration, round_hu=self.chain.round_hu
        )
        moved = move_mask(roi, grid)
        facts = {
            "angle_deg": perturbation.angle_deg,
            **{f"shift_{axis}": shift for axis, shift in zip("xyz", perturbation.shift, strict=True)},
            "volume_change": perturbation.volume_change,
            "noise_hu": self.noise_sd * self.amplitudes.noise * abs(self.chain.calibration.slope),
            "voxels": int(np.count_nonzero(moved)),
            "dice": float(2 * np.count_nonzero(mask & self.mask.array) / (np.count_nonzero(mask) + self.voxels)),
        }
        return Perturbed(shown, Volume(moved.astype(np.uint8), grid), facts)

    def _interpolated(self, grid: Geometry, perturbation: Perturbation | None) -> Array:
        """The source on a grid, before calibration; with noise where a perturbation is given."""
        source, sampling = self.source.geometry, self.chain.sampling
        sigmas = [sampling.sigma(axis, source.spacing[axis], grid.spacing[axis]) for axis in range(3)]
        least = _PREFILTER_MARGIN if sampling.order <= 3 else _LONG_PREFILTER_MARGIN
        margin = [least + math.ceil(_FILTER_MARGIN * sigma) for sigma in sigmas]
        box = _wider(_index_box(source, grid), margin, self.source.array.shape)
        part = crop(self.source, box)
        values = part.array.astype(np.float64)
        deviation = self.noise_sd * self.amplitudes.noise
        if perturbation is not None and deviation:
            values += _random(self.seed, perturbation.number, "noise").normal(0, deviation, values.shape)
        for axis, sigma in zip((2, 1, 0), sigmas, strict=True):
            if sigma:
                filtered = np.tensordot(gaussian_matrix(values.shape[axis], sigma), values, axes=(1, axis))
                values = np.moveaxis(filtered, 0, axis)
        return interpolate(Volume(values, part.geometry), grid, sampling)


def _digest(image: Array, mask: Array, spacing: Vector) -> bytes:
    """What the draws of an ROI follow from: its voxels, what the image shows there, the spacing of its grid."""
    digest = hashlib.sha256(repr((image.shape, mask.shape, tuple(float(s) for s in spacing))).encode())
    digest.update(np.ascontiguousarray(image, dtype=np.float32).tobytes())
    digest.update(np.packbits(mask).tobytes())
    return digest.digest()


def _wider(box: Box, margin: Sequence[int], shape: tuple[int, ...]) -> Box:
    """A box (z, y, x) that is wider by a margin of voxels (x, y, z) on each side, within an array of that shape."""
    z, y, x = (
        slice(max(part.start - more, 0), min(part.stop + more, n))
        for part, more, n in zip(box, reversed(margin), shape, strict=True)
    )
    return z, y, x


def _index_box(geometry: Geometry, grid: Geometry) -> Box:
    """The voxels (z, y, x) of a geometry between which the voxels of a grid lie; at least one voxel an axis."""
    corners = geometry.to_index(grid.corners())
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    x, y, z = (
        slice(min(max(int(a), 0), n - 1), min(max(int(b) + 1, 1), n))
        for a, b, n in zip(low, high, geometry.size, strict=True)
    )
    return z, y, x


# --------------------------------------------------------------------------- the parts of the chain


def estimate_noise(image: Array) -> float:
    """Standard deviation of the noise in an image (z, y, x), by its finest diagonal detail within the axial slices.

    The median of the absolute coefficients of the HH band (Coiflet 1, undecimated), divided by that of a standard
    normal variable: the estimator of Chang, Yu and Vetterli (IEEE Trans Image Process 9:1532, 2000) that Zwanenburg et
    al. use. Where the image is constant (padding) there is no noise to measure: such voxels don't count. 0 where
    nothing is left.
    """
    import pywt

    high = np.array(pywt.Wavelet("coif1").dec_hi)
    detail = image.astype(np.float64)
    for axis in (1, 2):
        detail = ndimage.convolve1d(detail, high, axis=axis, mode="mirror")
    detail = np.abs(detail)
    textured = detail[detail > 1e-9 * np.abs(image).max(initial=0)]
    return float(np.median(textured)) / _MAD_OF_NORMAL if textured.size else 0.0


def interpolate(image: Volume, grid: Geometry, sampling: Sampling) -> Array:
    """The image on a grid whose z axis is parallel to its own: float64, (z, y, x), once interpolated.

    B-spline (mirrored at the borders), linear or windowed sinc, as in `radloom.resample`; points outside take the value
    at the border. The Gaussians of `sampling` are not applied.
    """
    nx, ny, nz = grid.size
    source = image.array
    z = image.geometry.to_index(grid.to_physical([[0, 0, k] for k in range(nz)]))[:, 2]
    j, i = np.mgrid[0:ny, 0:nx]
    plane = image.geometry.to_index(grid.to_physical(np.stack([i, j, np.zeros_like(i)], axis=-1)))
    at = [
        np.clip(plane[..., axis], 0, n - 1) for axis, n in zip((1, 0), (source.shape[1], source.shape[2]), strict=True)
    ]
    matrix = sampling.matrix(source.shape[0], np.clip(z, 0, source.shape[0] - 1))
    stack = (matrix @ source.reshape(source.shape[0], -1).astype(np.float64)).reshape(nz, *source.shape[1:])
    result = np.empty(grid.shape)
    if sampling.interpolator == "sinc":
        flat = stack.reshape(nz, -1).T
        result[...] = (_sinc_in_plane(source.shape[1:], at, sampling.radius) @ flat).T.reshape(grid.shape)
        return result
    order = 1 if sampling.interpolator == "linear" else sampling.order
    for target, values in zip(result, stack, strict=True):
        ndimage.map_coordinates(values, at, output=target, order=order, mode="mirror")
    return result


def _sinc_in_plane(shape: tuple[int, ...], at: list[Array], radius: int) -> Any:
    """Sparse matrix that takes the values of a slice (y, x) to those at the positions `at` (y and x)."""
    (row, share_y), (column, share_x) = (sinc_weights(n, a.ravel(), radius) for n, a in zip(shape, at, strict=True))
    index = (row[:, :, None] * shape[1] + column[:, None, :]).reshape(len(row), -1)
    shares = (share_y[:, :, None] * share_x[:, None, :]).ravel()
    ends = np.arange(len(row) + 1) * index.shape[1]
    return sparse.csr_array((shares, index.ravel(), ends), shape=(len(row), shape[0] * shape[1]))


def perturbed_grid(roi: Volume, perturbation: Perturbation, margin_mm: float) -> Geometry:
    """The grid of an ROI (boolean, z, y, x), turned about the z axis and shifted, around the ROI and a margin.

    It turns about the voxel in the middle of the ROI's box; without rotation and shift its voxels are the ROI's own.
    """
    box = bounding_box(roi.array)
    if box is None:
        raise CaseError("nothing is left of the ROI", "a smaller `perturb.volume`, or `perturb.contour: false`")
    geometry = roi.geometry
    spacing = np.array(geometry.spacing)
    ends = np.array([[part.start, part.stop - 1] for part in reversed(box)], dtype=np.float64)
    middle = np.floor(ends.mean(axis=1))
    turn = math.radians(perturbation.angle_deg)
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    axes = geometry.axes @ rotation
    corners = (np.array(list(itertools.product(*ends))) - middle) * spacing @ rotation
    # A voxel more, for the shift.
    half = np.ceil(np.abs(corners).max(axis=0) / spacing + margin_mm / spacing + 1e-9).astype(int) + 1
    origin = geometry.to_physical(middle + np.array(perturbation.shift)) - axes @ (half * spacing)
    size = (2 * half + 1).tolist()
    x, y, z = origin.tolist()
    return Geometry((size[0], size[1], size[2]), geometry.spacing, (x, y, z), tuple(axes.ravel().tolist()))


def move_mask(roi: Volume, grid: Geometry) -> Array:
    """An ROI (boolean, z, y, x) on another grid: linear interpolation, then >= 0.5, as `radloom.resample` does."""
    geometry = roi.geometry
    x, y, z = geometry.to_physical([-1, -1, -1]).tolist()
    size = geometry.size
    padded = Geometry((size[0] + 2, size[1] + 2, size[2] + 2), geometry.spacing, (x, y, z), geometry.direction)
    weight = interpolate(Volume(np.pad(roi.array, 1).astype(np.float32), padded), grid, LINEAR)
    return np.asarray(weight >= 0.5 - _MASK_ROUNDING)


def change_volume(distance: Array, voxels: int, random: np.random.Generator) -> Array:
    """An ROI of exactly so many voxels (at least one), grown or shrunk evenly from its surface.

    distance: signed distance to the surface, (z, y, x), negative inside. Of voxels at the same distance, the last
    layer's are drawn at random.
    """
    wanted = min(max(voxels, 1), distance.size)
    order = distance.ravel() + random.uniform(0, 1e-4, distance.size)
    chosen = np.zeros(distance.size, dtype=bool)
    chosen[np.argpartition(order, wanted - 1)[:wanted]] = True
    return chosen.reshape(distance.shape)


def randomise_contour(mask: Array, pieces: Array, random: np.random.Generator) -> Array:
    """An ROI (boolean, z, y, x) whose surface is drawn anew from supervoxels (`pieces`, -1: stays as it is).

    A supervoxel is taken with a probability equal to the part of it that lies in the ROI; always where that is at
    least 0.9, never below 0.2; the one with the largest part always. Zwanenburg et al. (2019).
    """
    near = pieces >= 0
    if not near.any():
        return mask
    total = np.bincount(pieces[near])
    part = np.bincount(pieces[near & mask], minlength=len(total)) / np.maximum(total, 1)
    sure = part >= SURELY_IN
    sure[np.argmax(part)] = True
    taken = sure | ((random.uniform(size=len(part)) < part) & (part >= SURELY_OUT))
    result = mask.copy()
    result[near] = taken[pieces[near]]
    return result


# --------------------------------------------------------------------------- features


def filter_margin(params: FeatureParams, source: Geometry) -> float:
    """Millimetres around an ROI that its features depend on.

    Without filters one voxel; LoG fades within 5 sigma, and other filters see few voxels. With `normalize` all of the
    image counts.
    """
    coarsest = max(source.spacing)
    if params.setting.get("normalize"):
        return max(n * s for n, s in zip(source.size, source.spacing, strict=True))
    if set(params.image_types) <= {"Original"}:
        return coarsest
    sigmas = params.image_types.get("LoG", {}).get("sigma", [0])
    return max(20.0, 16 * coarsest, 5.0 * max(sigmas))


@dataclass(frozen=True)
class PerturbedFeatures:
    """Features of the perturbed ROIs: rows of (roi, number of the perturbation, values), and what was done."""

    columns: list[str]
    rows: list[tuple[str, int, list[float]]]
    done: list[tuple[str, int, dict[str, float]]]
    facts: dict[str, dict[str, Any]]
    warnings: list[str]


def perturb_features(
    source: Volume,
    roi: Volume,
    labels: Mapping[int, str],
    params: FeatureParams,
    chain: Chain,
    amplitudes: Amplitudes,
    count: int,
    rois: Sequence[str | int] = (),
    min_voxels: int = 1,
) -> PerturbedFeatures:
    """Perturb each ROI of a case `count` times, and extract its features each time.

    source: the image before resampling and calibration, (z, y, x). roi: label numbers on the resampled grid.
    rois: names or label numbers; what else is in there, such as derived ROIs, is not perturbed, and without any label
    all are. An ROI of fewer than `min_voxels` is left out, as `radloom.extract` does; a perturbation that can't be
    extracted has NaN.
    Raises CaseError where no ROI is left.
    """
    result = PerturbedFeatures(feature_columns(params), [], [], {}, [])
    reasons = []
    asked = {str(one) for one in rois}
    wanted = {number: name for number, name in labels.items() if asked & {name, str(number)}} or labels
    for number in sorted(wanted):
        name = wanted[number]
        try:
            scene = Scene(source, roi, number, chain, amplitudes)
            if scene.voxels < min_voxels:
                raise CaseError(f"the ROI has {scene.voxels} voxels, at least {min_voxels} are needed", "a larger ROI")
        except CaseError as error:
            reasons.append(f"{name}: {error.reason}")
            continue
        if amplitudes.noise and not scene.noise_sd:
            result.warnings.append(f"{name}: no noise could be measured around the ROI, so none was added")
        failed = []
        for perturbation, (values, facts, reason) in _each(scene, params, count):
            result.rows.append((name, perturbation.number, values))
            result.done.append((name, perturbation.number, facts))
            failed += [reason] if reason else []
        if failed:
            result.warnings.append(f"{name}: {len(failed)} of {count} perturbations have no features: {failed[0]}")
        result.facts[name] = {"noise_hu": scene.noise_sd, "failed": len(failed)}
    if not result.rows:
        raise CaseError(
            f"no ROI can be perturbed ({'; '.join(reasons) or 'the case has none'})", "see the step extract"
        )
    return result


def _each(
    scene: Scene, params: FeatureParams, count: int
) -> Iterator[tuple[Perturbation, tuple[list[float], dict[str, float], str]]]:
    """Each perturbation with its features (NaN where they can't be extracted), its facts and what went wrong."""
    margin = filter_margin(params, scene.mask.geometry)
    empty = [math.nan] * len(feature_columns(params))
    for number in range(1, count + 1):
        perturbation = draw(scene.seed, number, scene.amplitudes)
        facts: dict[str, float] = {}
        try:
            made = scene.perturbed(perturbation, margin)
            facts = made.facts
            extraction = extract_features(made.image, made.roi, {1: "ROI"}, params)
            yield perturbation, (extraction.rows["ROI"], facts, "")
        except CaseError as error:
            yield perturbation, (empty, facts, error.reason)


def write_perturbed(folder: Path, features: PerturbedFeatures) -> None:
    """Write features.csv (`roi,perturbation,<feature>,...`) and perturbations.csv (what was done); NaN is empty."""
    tables = {
        "features.csv": (features.columns, [(roi, n, values) for roi, n, values in features.rows]),
        "perturbations.csv": (
            list(PARAMETERS),
            [(roi, n, [facts.get(name, math.nan) for name in PARAMETERS]) for roi, n, facts in features.done],
        ),
    }
    for name, (columns, rows) in tables.items():
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["roi", "perturbation", *columns])
            for roi, number, values in rows:
                writer.writerow([roi, number, *("" if math.isnan(value) else repr(float(value)) for value in values)])
