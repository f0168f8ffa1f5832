"""CT phantoms with a known truth, and the survival times that follow from it.

A phantom is a slab of an abdomen: an elliptic body in air, a spine, a liver-like organ on the patient's right, a
decoy of the same HU on the left, and in the organ a hypodense tumour. Arrays are indexed (z, y, x); x runs to the
patient's left, y to the back and z to the head (LPS); lengths are in mm from the middle of the slab.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

ORGAN = 1
TUMOUR = 2
LABEL_NAMES = {ORGAN: "organ", TUMOUR: "tumour"}

AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 45.0
BONE_HU = 450.0
TUMOUR_TEXTURE_SIGMA_MM = 3.0
"""Width of the Gaussian that correlates the tumour's texture."""

LOG_RADIUS = (float(np.log(12.7)), 0.25)
"""Mean and standard deviation of the logarithm of the tumour's radius in mm."""
LOG_TEXTURE = (float(np.log(18.0)), 0.5)
"""Mean and standard deviation of the logarithm of the standard deviation in HU inside the tumour."""
TUMOUR_RADIUS_MM = (8.0, 21.0)
TUMOUR_TEXTURE_HU = (6.0, 50.0)


@dataclass(frozen=True)
class Scanner:
    """How a centre makes its images."""

    spacing: tuple[float, float, float]
    """Voxel spacing in mm along x, y, z; the slice is as thick as the spacing along z."""
    psf_fwhm_mm: float
    """Full width at half maximum of the in-plane point spread function."""
    noise_hu: float
    """Standard deviation of the noise inside the body; outside it is 0.4 of that."""
    field_of_view: tuple[float, float, float] = (200.0, 160.0, 96.0)
    """Extent in mm along x, y, z, rounded to whole voxels."""
    hu_slope: float = 1.0
    """HU_observed = hu_slope * HU_true + hu_intercept."""
    hu_intercept: float = 0.0


@dataclass(frozen=True)
class Anatomy:
    """One patient: semi-axes and centres in mm along x, y, z, attenuation in HU."""

    body_semi_axes: tuple[float, float]
    organ_centre: tuple[float, float, float]
    organ_semi_axes: tuple[float, float, float]
    decoy_centre: tuple[float, float, float]
    decoy_semi_axes: tuple[float, float, float]
    spine_centre: tuple[float, float]
    organ_hu: float
    tumour_hu: float
    tumour_radius: float
    """Radius of the sphere of the tumour's volume; 0 is a patient without tumour."""
    tumour_elongation: float
    """Ratio of the tumour's semi-axis along z to the other two."""
    tumour_offset: tuple[float, float, float]
    """Centre of the tumour seen from the organ's, in units of the way to the organ's surface that keeps it inside."""
    tumour_texture_hu: float
    """Standard deviation of the tumour's attenuation."""
    wobble_phases: tuple[float, float, float]
    """Phases in radians of the bumps on organ, decoy and tumour."""
    seed: int
    """Seed of the textures."""

    @property
    def tumour_volume_mm3(self) -> float:
        """Nominal volume of the tumour; the bumps on its surface change it by a few per cent."""
        return 4.0 / 3.0 * np.pi * self.tumour_radius**3

    @property
    def volume_score(self) -> float:
        """Log volume of the tumour in standard deviations from the population's mean; 0 without a tumour."""
        if self.tumour_radius == 0:
            return 0.0
        return float((np.log(self.tumour_radius) - LOG_RADIUS[0]) / LOG_RADIUS[1])

    @property
    def texture_score(self) -> float:
        """Log texture of the tumour in standard deviations from the population's mean; 0 without a tumour."""
        if self.tumour_radius == 0:
            return 0.0
        return float((np.log(self.tumour_texture_hu) - LOG_TEXTURE[0]) / LOG_TEXTURE[1])


@dataclass(frozen=True)
class Phantom:
    """An image, its true labels (0 background, 1 organ, 2 tumour) and the image without noise and drift; (z, y, x)."""

    image: np.ndarray
    labels: np.ndarray
    clean: np.ndarray
    spacing: tuple[float, float, float]
    """Voxel spacing in mm along x, y, z."""


def drift_line(drift: float) -> tuple[float, float]:
    """Slope and intercept of HU_observed over HU_true for a drift e in HU_true = (HU_observed + 1000)(1 + e) - 1000."""
    return 1.0 / (1.0 + drift), 1000.0 / (1.0 + drift) - 1000.0


def water_air_line(water_hu: float, air_hu: float) -> tuple[float, float]:
    """Slope and intercept of HU_observed over HU_true where water (0 HU) and air (-1000 HU) are measured as given."""
    return (water_hu - air_hu) / 1000.0, water_hu


def draw_anatomy(rng: np.random.Generator, *, with_tumour: bool = True) -> Anatomy:
    """Draw a patient: tumour volume (median 8.6 ml) and texture (median 18 HU) are log-normal and independent."""

    def around(middle: tuple[float, ...], spread: float) -> tuple[float, ...]:
        return tuple(float(m + rng.uniform(-spread, spread)) for m in middle)

    def scaled(axes: tuple[float, ...], spread: float) -> tuple[float, ...]:
        factor = rng.uniform(1 - spread, 1 + spread)
        return tuple(float(a * factor) for a in axes)

    body = scaled((86.0, 66.0), 0.05)
    organ_centre = around((-33.0, -6.0, 0.0), 4.0)
    organ_axes = scaled((38.0, 36.0, 36.0), 0.08)
    decoy_centre = around((46.0, 8.0, 4.0), 5.0)
    decoy_axes = scaled((21.0, 26.0, 27.0), 0.12)
    spine = around((0.0, 40.0), 2.0)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    offset = direction * rng.uniform(0, 1) ** (1 / 3)
    radius = float(np.clip(np.exp(rng.normal(*LOG_RADIUS)), *TUMOUR_RADIUS_MM))
    texture = float(np.clip(np.exp(rng.normal(*LOG_TEXTURE)), *TUMOUR_TEXTURE_HU))
    organ_hu = float(rng.normal(108.0, 4.0))
    tumour_hu = float(rng.normal(42.0, 5.0))
    elongation = float(rng.uniform(0.8, 1.25))
    phases = rng.uniform(0, 2 * np.pi, 3)
    return Anatomy(
        body_semi_axes=(body[0], body[1]),
        organ_centre=(organ_centre[0], organ_centre[1], organ_centre[2]),
        organ_semi_axes=(organ_axes[0], organ_axes[1], organ_axes[2]),
        decoy_centre=(decoy_centre[0], decoy_centre[1], decoy_centre[2]),
        decoy_semi_axes=(decoy_axes[0], decoy_axes[1], decoy_axes[2]),
        spine_centre=(spine[0], spine[1]),
        organ_hu=organ_hu,
        tumour_hu=tumour_hu,
        tumour_radius=radius if with_tumour else 0.0,
        tumour_elongation=elongation,
        tumour_offset=(float(offset[0]), float(offset[1]), float(offset[2])),
        tumour_texture_hu=texture,
        wobble_phases=(float(phases[0]), float(phases[1]), float(phases[2])),
        seed=int(rng.integers(2**31)),
    )


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a scanner from the range that the demonstration's centres lie in: what a segmentation net is trained on."""
    in_plane = float(rng.uniform(1.5, 2.6))
    return Scanner(
        spacing=(in_plane, in_plane, float(rng.uniform(2.0, 5.0))),
        psf_fwhm_mm=float(rng.uniform(1.0, 4.0)),
        noise_hu=float(rng.uniform(4.0, 18.0)),
    )


def _ellipsoid(
    z: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    centre: tuple[float, float, float],
    semi_axes: tuple[float, float, float],
    phase: float,
) -> np.ndarray:
    """Voxels within an ellipsoid whose surface carries bumps of 6 %; z, y, x broadcast against each other, in mm."""
    u = (x - centre[0]) / semi_axes[0]
    v = (y - centre[1]) / semi_axes[1]
    w = (z - centre[2]) / semi_axes[2]
    bumps = 0.06 * (np.sin(3.0 * u + phase) + np.cos(2.5 * v - phase) + np.sin(2.0 * w + 2.0 * phase)) / 1.5
    return u * u + v * v + w * w <= (1.0 + bumps) ** 2


def _texture(rng: np.random.Generator, mask: np.ndarray, spacing_zyx: tuple[float, float, float]) -> np.ndarray:
    """A Gaussian random field with mean 0 and standard deviation 1 over the voxels of `mask`, in their order."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    noise = rng.normal(size=mask[box].shape)
    field = ndimage.gaussian_filter(noise, [TUMOUR_TEXTURE_SIGMA_MM / s for s in spacing_zyx], mode="wrap")
    values = field[mask[box]]
    return (values - values.mean()) / values.std()


def make_phantom(anatomy: Anatomy, scanner: Scanner, rng: np.random.Generator) -> Phantom:
    """Scan a patient: thin slices are averaged to thick ones, blurred in-plane, noise is added, then the HU drift.

    A voxel's label is the one that most of its thin slices have. The image is float32, the labels uint8.
    """
    sx, sy, sz = scanner.spacing
    nx, ny, nz = (max(1, round(f / s)) for f, s in zip(scanner.field_of_view, scanner.spacing, strict=True))
    thin = int(np.ceil(sz / 1.25))
    x = ((np.arange(nx) - (nx - 1) / 2) * sx)[None, None, :]
    y = ((np.arange(ny) - (ny - 1) / 2) * sy)[None, :, None]
    z = ((np.arange(nz * thin) - (nz * thin - 1) / 2) * (sz / thin))[:, None, None]

    a, b = anatomy.body_semi_axes
    radius2 = (x / a) ** 2 + (y / b) ** 2
    px, py = anatomy.spine_centre
    organ = _ellipsoid(z, y, x, anatomy.organ_centre, anatomy.organ_semi_axes, anatomy.wobble_phases[0])
    decoy = _ellipsoid(z, y, x, anatomy.decoy_centre, anatomy.decoy_semi_axes, anatomy.wobble_phases[1])
    decoy &= ~organ

    tissue = np.full((ny, nx), AIR_HU, np.float32)
    body = radius2[0] <= 1.0
    tissue[body] = FAT_HU
    tissue[radius2[0] <= 0.88**2] = MUSCLE_HU
    tissue[((x - px) ** 2 + (y - py) ** 2)[0] <= 13.0**2] = BONE_HU
    truth = np.broadcast_to(tissue, organ.shape).copy()
    truth[organ | decoy] = anatomy.organ_hu

    textures = np.random.default_rng(anatomy.seed)
    labels = organ.astype(np.uint8) * ORGAN
    if anatomy.tumour_radius > 0:
        flat = anatomy.tumour_radius * anatomy.tumour_elongation ** (-1 / 3)
        axes = (flat, flat, flat * anatomy.tumour_elongation)
        room = [0.9 * max(0.0, o - 1.06 * t) for o, t in zip(anatomy.organ_semi_axes, axes, strict=True)]
        cx, cy, cz = (c + r * o for c, r, o in zip(anatomy.organ_centre, room, anatomy.tumour_offset, strict=True))
        tumour = organ & _ellipsoid(z, y, x, (cx, cy, cz), axes, anatomy.wobble_phases[2])
        texture = _texture(textures, tumour, (sz / thin, sy, sx))
        truth[tumour] = anatomy.tumour_hu + anatomy.tumour_texture_hu * texture
        labels[tumour] = TUMOUR

    thick = truth.reshape(nz, thin, ny, nx).mean(axis=1)
    sigma = scanner.psf_fwhm_mm / np.sqrt(8 * np.log(2))
    clean = ndimage.gaussian_filter(thick, (0.0, sigma / sy, sigma / sx), mode="nearest")
    noise = ndimage.gaussian_filter(rng.normal(size=clean.shape), (0.0, 0.5, 0.5), mode="wrap")
    noise *= scanner.noise_hu / noise.std() * np.where(body, 1.0, 0.4)
    image = scanner.hu_slope * (clean + noise) + scanner.hu_intercept

    slabs = labels.reshape(nz, thin, ny, nx)
    share = np.stack([(slabs == label).sum(axis=1) for label in (0, ORGAN, TUMOUR)])
    return Phantom(
        image=image.astype(np.float32),
        labels=np.argmax(share, axis=0).astype(np.uint8),
        clean=clean.astype(np.float32),
        spacing=scanner.spacing,
    )


def simulate_survival(
    linear_predictor: np.ndarray,
    rng: np.random.Generator,
    *,
    baseline_hazard: float | np.ndarray,
    follow_up: float,
    shortest_follow_up: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate (time, event) of exponential event times with hazard `baseline_hazard` * exp(linear predictor).

    Times are in the unit in which the hazard is given. Everybody is censored at `follow_up`; with `shortest_follow_up`
    patients enter evenly over time, so that censoring is uniform between the two. Event is 1, censoring 0 (int64).
    Source: Bender, Augustin, Blettner, Stat Med 2005;24:1713 (inversion of the cumulative hazard).
    """
    eta = np.asarray(linear_predictor, dtype=np.float64)
    event_time = rng.exponential(size=eta.shape) / (np.asarray(baseline_hazard) * np.exp(eta))
    if shortest_follow_up is None:
        censoring = np.full(eta.shape, float(follow_up))
    else:
        if shortest_follow_up > follow_up:
            raise ValueError(f"shortest_follow_up {shortest_follow_up} is longer than follow_up {follow_up}")
        censoring = rng.uniform(shortest_follow_up, follow_up, size=eta.shape)
    event = (event_time <= censoring).astype(np.int64)
    return np.minimum(event_time, censoring), event


def simulate_outcome(linear_predictor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulate a binary outcome (int64) with probability 1 / (1 + exp(-linear predictor))."""
    eta = np.asarray(linear_predictor, dtype=np.float64)
    return (rng.uniform(size=eta.shape) < 1.0 / (1.0 + np.exp(-eta))).astype(np.int64)
