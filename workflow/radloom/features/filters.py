"""PyRadiomics' image types inside the box of an ROI, with PyRadiomics' numbers, without filtering the whole image.

PyRadiomics filters the whole image for each ROI and cuts the box out afterwards. Here a filter gets the box and the
voxels around it that its values depend on; along an axis on which these leave the image it gets what the whole image
would give it. The tests hold the values inside the box bit for bit against `radiomics.imageoperations` on the whole
image. LoG alone may differ, where sigma is more than about 4 voxels: some 3 values in a million then come out as the
neighbouring float32, since the float64 that a recursive filter rounds depends in its last bits on where a line starts.

| image type | margin around the box |
|---|---|
| Square, SquareRoot, Logarithm, Exponential | none; scaled by the largest absolute value of the whole image |
| Gradient | 1 voxel |
| Wavelet | half the filter's length for each level; an axis on which that leaves the image is taken whole |
| LoG | 27 sigma: the tail of ITK's recursive filter is then below float64's resolution |
| LBP2D | the radius and 1 voxel, but each plane from its first voxel on |
| LBP3D | the radius and the tail of the spline prefilter |

What follows from the image's type is PyRadiomics' as well: LoG and Gradient are float32 whatever comes in, Wavelet of a
float32 image is float32 and of any other float64. LBP2D's codes have the image's own type, which cuts off what is
behind the point of the method `var` of an int16 image; LBP3D takes its samples in that type, so that those of an int16
image are rounded to whole HU before they are compared. Square is positive throughout (PyRadiomics' documentation says
otherwise); SquareRoot and Logarithm keep the sign.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from radloom.feature_params import image_names
from radloom.images import Array, Box, Volume, crop, to_sitk, widen

# The slowest pole of ITK's recursive Gaussian falls by exp(-1.3732 / sigma) a voxel (Deriche 1993, and the constant L2
# in itkRecursiveGaussianImageFilter.hxx): to 7.9e-17 over 27 sigma.
LOG_MARGIN_SIGMA = 27
# The pole of the cubic B-spline prefilter is sqrt(3) - 2: 1.4e-18 over 31 voxels; the spline itself reaches over 2.
SPLINE_MARGIN = 33
# PyRadiomics' setting where a parameter file has `preCrop` but says nothing of this one.
PAD_DISTANCE = 5
# Samples on spheres (voxels times vertices) that LBP3D holds at a time, about 30 bytes each and level squared.
_SAMPLES_AT_A_TIME = 1 << 17
# Voxels that a pass of LoG hands to ITK at a time.
_VOXELS_AT_A_TIME = 1 << 21


@dataclass(frozen=True)
class FilteredImage:
    """An image that PyRadiomics derives.

    name: PyRadiomics' prefix of its features: original, log-sigma-2-0-mm-3D, wavelet-LLH, ...
    image_type: Original, LoG, Wavelet, ...
    array: (z, y, x), the values inside the box, of the type in which PyRadiomics hands them to its feature classes
        (which counts: the texture classes compute their bin edges in that type). NaN where there is no value: all over
        where the filter can't be applied, and in LBP3D outside the ROI.
    note: why the filter can't be applied; empty where it is.
    """

    name: str
    image_type: str
    array: Array
    note: str = ""


def filtered_images(
    image: Volume,
    mask: Array,
    box: Box,
    image_types: Mapping[str, Mapping[str, Any]],
    setting: Mapping[str, Any],
) -> Iterator[FilteredImage]:
    """The images of all image types inside a box, in PyRadiomics' order, one at a time.

    image: whole image, (z, y, x), its values finite; already normalised where `normalize` is set.
    mask: non-zero in the ROI, (z, y, x), on the image's grid; LBP3D has values there alone, the others ignore it.
    box: slices (z, y, x) with start and stop; an ROI's bounding box, or one around several ROIs (`mask` is then their
        union), of which the caller cuts out what belongs to each. It must be that of a single ROI with `preCrop`, with
        which PyRadiomics' images depend on the ROI's box and on `padDistance`.
    image_types: settings of its own by image type, as in `FeatureParams.image_types`.
    setting: the common settings.

    Every name of `image_names` comes, whatever the image: a filter that can't be applied gives NaN and a note. Values
    that PyRadiomics' formula leaves undefined (the square of an image of zeros, the kurtosis of equal samples) are NaN
    or infinite.
    """
    part = _Part(image, mask, box)
    if setting.get("preCrop"):
        part = part.precropped(int(setting.get("padDistance", PAD_DISTANCE)))
    for image_type, own in image_types.items():
        effective = {**setting, **own}
        results = _FILTERS[image_type](part, effective)
        for name in image_names(image_type, effective):
            # Only while the filter works: what the caller does in between is none of our business.
            with np.errstate(all="ignore"):
                result = next(results)
            if isinstance(result, str):
                nothing = np.broadcast_to(np.float64(np.nan), tuple(side.stop - side.start for side in box))
                yield FilteredImage(name, image_type, nothing, f"{name}: {result}")
            else:
                yield FilteredImage(name, image_type, result)
            del result


@contextmanager
def lbp3d_bridge() -> Iterator[None]:
    """Lend SciPy the function `sph_harm`, without which PyRadiomics' own `getLBP3DImage` gives no image.

    SciPy 1.17 removed it in favour of `sph_harm_y`, which takes degree and order, and the two angles, the other way
    round. For the time of the block only; where SciPy has the function it is left alone.
    """
    import scipy.special

    if hasattr(scipy.special, "sph_harm"):
        yield
        return
    scipy.special.sph_harm = _sph_harm
    try:
        yield
    finally:
        del scipy.special.sph_harm


def _sph_harm(order: int, degree: int, azimuth: Array, polar: Array) -> Array:
    """SciPy's former `sph_harm`: complex spherical harmonics with the Condon-Shortley phase."""
    from scipy.special import sph_harm_y

    return np.asarray(sph_harm_y(degree, order, polar, azimuth))


@dataclass(frozen=True)
class _Part:
    """A box of an image of which only the values inside are wanted."""

    image: Volume
    mask: Array
    box: Box

    @property
    def values(self) -> Array:
        """The image inside the box, a copy."""
        return self.image.array[self.box].copy()

    @functools.cached_property
    def extreme(self) -> float:
        """Largest absolute value of the whole image."""
        return max(abs(float(self.image.array.min())), abs(float(self.image.array.max())))

    def around(self, margins: tuple[int, int, int]) -> Box:
        """The box with margins in voxels (z, y, x), as far as the image goes."""
        return widen(self.box, margins, self.image.array.shape)

    def inside(self, outer: Box) -> Box:
        """The box as slices of the array that `outer` cuts out."""
        z, y, x = (
            slice(side.start - other.start, side.stop - other.start)
            for side, other in zip(self.box, outer, strict=True)
        )
        return z, y, x

    def precropped(self, pad: int) -> _Part:
        """The same box of the image that PyRadiomics' `preCrop` leaves."""
        outer = self.around((pad, pad, pad))
        return _Part(crop(self.image, outer), self.mask[outer], self.inside(outer))


def _original(part: _Part, _: Mapping[str, Any]) -> Iterator[Array]:
    yield part.values


def _square(part: _Part, _: Mapping[str, Any]) -> Iterator[Array]:
    scale = 1 / np.sqrt(np.float64(part.extreme))
    yield (scale * part.values.astype(np.float64)) ** 2


def _square_root(part: _Part, _: Mapping[str, Any]) -> Iterator[Array]:
    values = part.values.astype(np.float64)
    yield np.copysign(np.sqrt(np.abs(values) * part.extreme), values)


def _logarithm(part: _Part, _: Mapping[str, Any]) -> Iterator[Array]:
    values = part.values.astype(np.float64)
    extreme = np.float64(part.extreme)
    yield np.copysign(np.log(np.abs(values) + 1), values) * (extreme / np.log(extreme + 1))


def _exponential(part: _Part, _: Mapping[str, Any]) -> Iterator[Array]:
    extreme = np.float64(part.extreme)
    yield np.exp(np.log(extreme) / extreme * part.values.astype(np.float64))


def _gradient(part: _Part, setting: Mapping[str, Any]) -> Iterator[Array]:
    from radiomics.imageoperations import getGradientImage
    from SimpleITK import GetArrayViewFromImage

    outer = part.around((1, 1, 1))
    [(result, _, _)] = getGradientImage(to_sitk(crop(part.image, outer)), None, **setting)
    yield GetArrayViewFromImage(result)[part.inside(outer)].copy()


def _laplacians(part: _Part, setting: Mapping[str, Any]) -> Iterator[Array | str]:
    for sigma in {str(sigma): sigma for sigma in setting["sigma"]}.values():
        needed = [max(4, math.ceil(sigma / spacing) + 1) for spacing in part.image.geometry.spacing]
        if all(size >= least for size, least in zip(part.image.geometry.size, needed, strict=True)):
            yield _laplacian(part, float(sigma))
            continue
        cropped = " (`preCrop` leaves no more; leave it out, or raise `padDistance`)" if setting.get("preCrop") else ""
        yield (
            f"the filter needs an image of at least {_by(needed)} voxels (x, y, z), this one has "
            f"{_by(part.image.geometry.size)}{cropped}"
        )


def _laplacian(part: _Part, sigma: float) -> Array:
    """ITK's LaplacianRecursiveGaussianImageFilter, normalised across scale, in the passes of which it consists.

    One axis after the other gives the second derivative along itself of the image smoothed along the two others, each
    pass rounded to float32. After a pass only those of its values that lie in the box go on to the next one.
    """
    spacing = list(reversed(part.image.geometry.spacing))
    z, y, x = (max(math.ceil(LOG_MARGIN_SIGMA * sigma / side), 4) for side in spacing)
    outer = part.around((z, y, x))
    inside = part.inside(outer)
    total = np.zeros([side.stop - side.start for side in part.box], dtype=np.float32)
    for axis in (2, 1, 0):
        result = part.image.array[outer]
        for along in (axis, *(other for other in (2, 1, 0) if other != axis)):
            result = _gaussian_lines(result, along, sigma, spacing[along], along == axis, inside[along])
        # A float32 sum of products in float64: with the rounding of ITK's own.
        np.add(total, result * np.float64(1 / spacing[axis] ** 2), out=total, casting="same_kind")
    return total


def _gaussian_lines(
    array: Array, axis: int, sigma: float, spacing: float, second_derivative: bool, wanted: slice
) -> Array:
    """ITK's recursive Gaussian, or its second derivative, along one axis of an array (z, y, x), as float32: of each
    line just the part that is wanted. Sigma and spacing in mm.
    """
    import SimpleITK as sitk

    line_filter = sitk.RecursiveGaussianImageFilter()
    line_filter.SetSigma(sigma)
    line_filter.SetNormalizeAcrossScale(True)
    line_filter.SetDirection(2 - axis)
    line_filter.SetOrder(line_filter.SecondOrder if second_derivative else line_filter.ZeroOrder)
    lines = [slice(None)] * 3
    lines[axis] = wanted
    shape = list(array.shape)
    shape[axis] = wanted.stop - wanted.start
    result = np.empty(shape, dtype=np.float32)
    # Lines don't know of each other, so that a slab at a time will do.
    across = 1 if axis == 0 else 0
    step = max(_VOXELS_AT_A_TIME * array.shape[across] // array.size, 1)
    for start in range(0, array.shape[across], step):
        slab = [slice(None)] * 3
        slab[across] = slice(start, start + step)
        image = sitk.GetImageFromArray(array[tuple(slab)])
        image.SetSpacing([spacing] * 3)
        image = line_filter.Execute(image)  # a view doesn't keep its image alive
        result[tuple(slab)] = sitk.GetArrayViewFromImage(image)[tuple(lines)]
    return result


def _wavelets(part: _Part, setting: Mapping[str, Any]) -> Iterator[Array]:
    """Bands of PyWavelets' stationary wavelet transform of level 1, applied again to the low band at each further
    level; details of each level, and the low band of the last.

    The transform takes the image as periodic, and repeats its first voxel at the end to make a size even. A part of the
    image is exact but for the margin; PyWavelets adds up in another order near the ends, so that an axis on which the
    margin leaves the image is taken whole.
    """
    import pywt

    wavelet = pywt.Wavelet(setting.get("wavelet", "coif1"))
    before, levels = int(setting.get("start_level", 0)), int(setting.get("level", 1))
    axes = [2, 1, 0]
    if setting.get("force2D"):
        axes.remove(int(setting.get("force2Ddimension", 0)))
    outer = _for_wavelet(part, axes, (before + levels) * wavelet.dec_len // 2)
    data = part.image.array[outer]
    odd = [(0, size % 2 if axis in axes else 0) for axis, size in enumerate(data.shape)]
    data = np.pad(data, odd, "wrap")
    inside = part.inside(outer)
    for _ in range(before):
        data = _low(data, wavelet, axes)
    for level in range(levels):
        # The low band comes first, but is wanted last, and whole as long as there is a next level.
        bands = _bands(data, wavelet, axes, inside)
        low = next(bands)
        yield from bands
        if level < levels - 1:
            data = _low(data, wavelet, axes)
    yield low


def _for_wavelet(part: _Part, axes: list[int], margin: int) -> Box:
    """The part of the image from which the bands inside the box follow, of an even size along `axes` unless that is the
    whole axis.
    """
    sides = list(part.box)
    for axis in axes:
        size, start, stop = part.image.array.shape[axis], sides[axis].start - margin, sides[axis].stop + margin
        stop += (stop - start) % 2
        sides[axis] = slice(start, stop) if start >= 0 and stop <= size else slice(0, size)
    z, y, x = sides
    return z, y, x


def _low(data: Array, wavelet: Any, axes: list[int]) -> Array:
    import pywt

    for axis in axes:
        [(data, _)] = pywt.swt(data, wavelet, level=1, axis=axis)
    return data


def _bands(data: Array, wavelet: Any, axes: list[int], inside: Box) -> Iterator[Array]:
    """All bands of one level in the order LLL, LLH, ..., HHH (the first letter is that of the first of `axes`), cut
    down to `inside`; what no band still needs is let go.
    """
    import pywt

    if not axes:
        yield np.ascontiguousarray(data[inside])
        return
    axis, *others = axes
    [pair] = pywt.swt(data, wavelet, level=1, axis=axis)
    del data
    waiting = list(pair)
    del pair
    lines = [slice(None)] * 3
    lines[axis] = inside[axis]
    left = [slice(None) if other == axis else side for other, side in enumerate(inside)]
    while waiting:
        yield from _bands(waiting.pop(0)[tuple(lines)], wavelet, others, (left[0], left[1], left[2]))


def _lbp_2d(part: _Part, setting: Mapping[str, Any]) -> Iterator[Array]:
    from radiomics.imageoperations import getLBP2DImage
    from SimpleITK import GetArrayViewFromImage

    across = int(setting.get("force2Ddimension", 0))
    margin = math.ceil(setting.get("lbp2DRadius", 1)) + 1
    # A sample lies at the sum of a voxel's index and a step on the circle. Among equal values the rounding of that sum
    # decides whether the sample counts as larger, so that the indices have to be those of the whole image.
    sides = [slice(0, side.stop) for side in part.around((margin, margin, margin))]
    sides[across] = part.box[across]
    outer = (sides[0], sides[1], sides[2])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Applying `local_binary_pattern` to floating-point", UserWarning)
        [(result, _, _)] = getLBP2DImage(to_sitk(crop(part.image, outer)), None, **setting)
    yield GetArrayViewFromImage(result)[part.inside(outer)].copy()


def _lbp_3d(part: _Part, setting: Mapping[str, Any]) -> Iterator[Array]:
    """Local binary patterns on spheres (Banerjee 2013), as PyRadiomics' `getLBP3DImage` computes them.

    PyRadiomics samples the spheres of all voxels at once, which takes gigabytes for a large ROI, on splines of the
    whole image. The formulas are its own, with polar angle and azimuth exchanged where it calls `sph_harm`, and hold
    for one level as well, at which PyRadiomics fails.
    """
    from scipy.ndimage import map_coordinates, spline_filter
    from scipy.stats import kurtosis
    from trimesh.creation import icosphere

    levels = int(setting.get("lbp3DLevels", 2))
    radius = setting.get("lbp3DIcosphereRadius", 1)
    vertices = np.array(icosphere(setting.get("lbp3DIcosphereSubdivision", 1), radius).vertices)
    # At some radii the cosine at the pole is rounded to more than 1, which makes PyRadiomics' images NaN.
    polar = np.arccos(np.clip(vertices[:, 2] / radius, -1, 1))
    azimuth = np.arctan2(vertices[:, 1], vertices[:, 0])
    degrees = np.array([degree for degree in range(levels) for _ in range(2 * degree + 1)])
    orders = [order for degree in range(levels) for order in range(-degree, degree + 1)]
    harmonics = np.column_stack(
        [_sph_harm(order, degree, polar, azimuth) for order, degree in zip(orders, degrees, strict=True)]
    )

    margin = math.ceil(radius) + SPLINE_MARGIN
    outer = part.around((margin, margin, margin))
    array = part.image.array[outer]
    splines = spline_filter(array, order=3, output=np.float64, mode="constant")
    inside = part.inside(outer)
    where = np.nonzero(part.mask[part.box])
    corner = np.array([side.start for side in part.box])[:, None]
    first = np.array([side.start for side in outer])[:, None, None]
    values = np.empty((levels + 1, where[0].size))
    step = max(_SAMPLES_AT_A_TIME // len(vertices), 1)
    for begin in range(0, where[0].size, step):
        chunk = slice(begin, begin + step)
        voxels = np.array([index[chunk] for index in where])
        # The sum is rounded as in the whole image; taking the corner off again is exact.
        points = (voxels + corner)[:, :, None] + vertices.T[:, None, :] - first
        samples = map_coordinates(splines, points, output=array.dtype, order=3, prefilter=False)
        with warnings.catch_warnings():  # of spheres on which all samples are alike: their kurtosis is NaN
            warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
            values[levels, chunk] = kurtosis(samples, axis=1)
        centres = array[inside][tuple(voxels)]
        pattern = np.greater_equal(samples, centres[:, None]).astype(int)
        coefficients = np.multiply(pattern[:, :, None], harmonics[None, :, :]).sum(axis=1)
        parts = [
            np.sum(
                np.multiply(coefficients[:, None, degrees == degree], harmonics[None, :, degrees == degree]),
                axis=2,
                keepdims=True,
            )
            for degree in range(levels)
        ]
        norms = np.sqrt(np.sum(np.concatenate(parts, axis=2) ** 2, axis=1))
        values[:levels, chunk] = np.real(norms).T
    for row in values:
        result = np.full([side.stop - side.start for side in part.box], np.nan)
        result[where] = row
        yield result


def _by(size: Any) -> str:
    return " x ".join(map(str, size))


_FILTERS: dict[str, Callable[[_Part, Mapping[str, Any]], Iterator[Any]]] = {
    "Original": _original,
    "LoG": _laplacians,
    "Wavelet": _wavelets,
    "Square": _square,
    "SquareRoot": _square_root,
    "Logarithm": _logarithm,
    "Exponential": _exponential,
    "Gradient": _gradient,
    "LBP2D": _lbp_2d,
    "LBP3D": _lbp_3d,
}
