"""Shape features of a mask: PyRadiomics' own mesh and diameters, without its passes over all pairs of vertices.

The mesh of a mask puts each vertex halfway between two voxels, so a cube of eight voxels adds one of 256 known terms to
surface and volume. Those terms come from PyRadiomics' own C function, and the cubes are counted. The farthest pair of
vertices lies on the convex hull, and in each plane on the hull of the plane's vertices.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from radloom.features.kernels import library, shape_of
from radloom.images import Array, bounding_box

# Corner k of a cube as (z, y, x), in PyRadiomics' numbering.
CORNERS = ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0))
# A volume may come out a hair below zero as an eigenvalue; PyRadiomics rounds these to 0.
_ROUNDED_TO_ZERO = -1e-10


@dataclass(frozen=True)
class Measures:
    """Volume (mm3) and surface (mm2) of the mesh, volume of the voxels (mm3), the largest diameters (mm) in space, in
    slices (planes along z), columns (along y) and rows (along x), and the ascending variances of the voxels' centres
    along the principal axes (mm2).
    """

    volume: float
    surface: float
    voxel_volume: float
    diameter: float
    slice_diameter: float
    column_diameter: float
    row_diameter: float
    variances: tuple[float, float, float]

    def axis_length(self, rank: int) -> float:
        """4 times the square root of the variance."""
        return 4 * _root(self.variances[rank])

    def relative_axis(self, rank: int) -> float:
        ratio = self.variances[rank] / self.variances[2] if self.variances[2] else math.nan
        return _root(ratio)

    def sphere_surface(self) -> float:
        """Surface of the sphere of the same volume."""
        return (36 * math.pi * self.volume**2) ** (1 / 3)


FORMULAS: dict[str, Callable[[Measures], float]] = {
    "Compactness1": lambda m: m.volume / (m.surface**1.5 * math.sqrt(math.pi)),
    "Compactness2": lambda m: 36 * math.pi * m.volume**2 / m.surface**3,
    "Elongation": lambda m: m.relative_axis(1),
    "Flatness": lambda m: m.relative_axis(0),
    "LeastAxisLength": lambda m: m.axis_length(0),
    "MajorAxisLength": lambda m: m.axis_length(2),
    "Maximum2DDiameterColumn": lambda m: m.column_diameter,
    "Maximum2DDiameterRow": lambda m: m.row_diameter,
    "Maximum2DDiameterSlice": lambda m: m.slice_diameter,
    "Maximum3DDiameter": lambda m: m.diameter,
    "MeshVolume": lambda m: m.volume,
    "MinorAxisLength": lambda m: m.axis_length(1),
    "Sphericity": lambda m: m.sphere_surface() / m.surface,
    "SphericalDisproportion": lambda m: m.surface / m.sphere_surface(),
    "SurfaceArea": lambda m: m.surface,
    "SurfaceVolumeRatio": lambda m: m.surface / m.volume,
    "VoxelVolume": lambda m: m.voxel_volume,
}


def shape_features(mask: Array, spacing: tuple[float, float, float], wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named features of a mask (z, y, x), nonzero inside; spacing (z, y, x) in mm."""
    measures = measure(mask, spacing)
    return {name: FORMULAS[name](measures) for name in wanted}


def measure(mask: Array, spacing: tuple[float, float, float]) -> Measures:
    """Measure a mask (z, y, x), nonzero inside and not empty; spacing (z, y, x) in mm."""
    mm = np.array(spacing, dtype=np.float64)
    # Where PyRadiomics' mesh isn't closed its volume depends on the origin, which is the corner of the mask's own box.
    box = bounding_box(mask)
    assert box is not None
    mask = mask[box]
    padded = np.zeros([size + 2 for size in mask.shape], np.uint8)
    padded[1:-1, 1:-1, 1:-1] = mask != 0
    shape = shape_of(padded)
    histogram, position = np.zeros(256, np.int64), np.zeros((256, 3), np.int64)
    n_vertices = library().cubes(padded, shape, histogram, position, None)
    if n_vertices < 0:
        raise MemoryError
    vertices = np.empty((n_vertices, 3), np.int32)
    library().cubes(padded, shape, histogram, position, vertices.ctypes.data)

    terms = cube_terms(tuple(spacing))
    volume = float(histogram @ terms.volume + (position * terms.shift).sum())
    *planes, diameter = _diameters(vertices, mm)
    sums = np.zeros(10, np.int64)
    library().index_moments(padded, shape, sums)
    return Measures(
        volume=volume,
        surface=float(histogram @ terms.surface),
        voxel_volume=int(sums[0]) * float(mm.prod()),
        diameter=diameter,
        slice_diameter=planes[0],
        column_diameter=planes[1],
        row_diameter=planes[2],
        variances=_variances(sums, mm),
    )


def _diameters(vertices: Array, mm: Array) -> tuple[float, float, float, float]:
    """Largest distances (mm) of two vertices in planes across z, y and x, and in space."""
    half = mm / 2
    on_hulls = np.ones(len(vertices), bool)
    in_planes = []
    for axis in range(3):
        kept = np.empty(len(vertices), np.uint8)
        squared = library().plane_hulls(vertices, len(vertices), axis, int(vertices.max()) + 1, half, kept)
        if squared < 0:
            raise MemoryError
        in_planes.append(math.sqrt(squared))
        on_hulls &= kept.view(bool)
    # A corner of the hull in space is a corner in each of the three planes through it.
    corners = vertices[on_hulls] * half
    radius = np.sqrt(((corners - corners.mean(0)) ** 2).sum(1))
    order = np.argsort(-radius)
    farthest = library().farthest_pair(np.ascontiguousarray(corners[order]), radius[order], len(order))
    return in_planes[0], in_planes[1], in_planes[2], math.sqrt(farthest)


def _variances(sums: Array, mm: Array) -> tuple[float, float, float]:
    """Ascending eigenvalues of the covariance (divided by n, as in PyRadiomics) of the voxels' centres, in mm2."""
    n, z, y, x, zz, yy, xx, zy, zx, yx = (int(value) for value in sums)
    first = (z, y, x)
    second = ((zz, zy, zx), (zy, yy, yx), (zx, yx, xx))
    # In whole numbers, so that an ROI of one slice has a variance of exactly 0 across it.
    covariance = np.array([[(n * second[a][b] - first[a] * first[b]) / n**2 for b in range(3)] for a in range(3)])
    values = np.linalg.eigvalsh(covariance * np.outer(mm, mm))
    low, middle, high = (0.0 if _ROUNDED_TO_ZERO < value < 0 else float(value) for value in values)
    return low, middle, high


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


@dataclass(frozen=True)
class CubeTerms:
    """What a cube of each of the 256 configurations adds to the mesh: surface (mm2), volume (mm3) when its corner 0 is
    the origin, and volume for each step of the cube along z, y and x, (256, 3).

    Volumes are sums over triangles of the tetrahedra that they span with the origin, which depend on where the cube is.
    """

    surface: Array
    volume: Array
    shift: Array


@cache
def cube_terms(spacing: tuple[float, float, float]) -> CubeTerms:
    """Return the terms at a spacing (z, y, x) in mm, measured with PyRadiomics' C function on 2 x 2 x 2 masks.

    The step terms come from masks of two cubes in a row: what isn't due to either at the origin is due to the step.
    """
    mm = np.array(spacing, dtype=np.float64)
    masks = [_corners(code) for code in range(256)]
    measured = [_pyradiomics_mesh(mask, mm)[:2] for mask in masks]
    surface, volume = (np.array(values) for values in zip(*measured, strict=True))
    code_of = {mask.tobytes(): code for code, mask in enumerate(masks)}
    shift = np.zeros((256, 3))
    for code, mask in enumerate(masks):
        for axis in range(3):
            near = mask.take([0, 0], axis)
            both = np.concatenate([near.take([0], axis), mask], axis)
            shift[code, axis] = (
                _pyradiomics_mesh(both, mm)[1] - volume[code_of[np.ascontiguousarray(near).tobytes()]] - volume[code]
            )
    # In units of a voxel the terms are multiples of 1/48; so are they exact, and not off by a subtraction.
    voxel = float(mm.prod())
    return CubeTerms(surface, volume, np.round(shift / voxel * 48) / 48 * voxel)


def _corners(code: int) -> Array:
    mask = np.zeros((2, 2, 2), bool)
    for bit, corner in enumerate(CORNERS):
        mask[corner] = bool(code >> bit & 1)
    return mask


def _pyradiomics_mesh(mask: Array, mm: Array) -> tuple[float, float, Any]:
    """Surface and volume (and diameters) by PyRadiomics' marching cubes of a mask, without padding."""
    return _c_shape().calculate_coefficients(np.ascontiguousarray(mask), mm)


@cache
def _c_shape() -> Any:
    """PyRadiomics' C extension by itself: `import radiomics` takes a third of a second for what isn't needed."""
    package = importlib.util.find_spec("radiomics")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(next(iter(package.submodule_search_locations)))
    path = next(
        folder / f"_cshape{suffix}"
        for suffix in importlib.machinery.EXTENSION_SUFFIXES
        if (folder / f"_cshape{suffix}").exists()
    )
    spec = importlib.util.spec_from_file_location("_cshape", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
