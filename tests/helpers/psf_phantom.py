"""A texture of known point spread: what blur does to GLCM features, and what matching takes back.

Two scanners see one random texture (60 HU, correlated over 1.5 mm) through Gaussian point spreads; the noise of the
detector (white) goes through the same kernel, as in a reconstruction. `python tests/helpers/psf_phantom.py` prints the
table of docs/resolution.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radloom.calibrate import Calibration, calibrate_image
from radloom.extract import extract_features
from radloom.feature_params import FeatureParams
from radloom.images import Geometry, Volume
from radloom.match import matching_gaussian
from radloom.resample import Sampling, resample_image, resample_mask

FEATURES = {
    "original_glcm_Contrast": "GLCM contrast",
    "original_glcm_JointEnergy": "GLCM energy",
    "original_glcm_Idm": "GLCM homogeneity (Idm)",
    "original_glrlm_ShortRunEmphasis": "GLRLM short run emphasis",
    "original_firstorder_Variance": "variance",
}
SHARP, SOFT, TARGET = 1.4, 2.2, 2.2
"""Full widths at half maximum in mm."""

_FINE = 0.4  # mm
_PIXELS = 2  # fine pixels a pixel of 0.8 mm
_SLICES = 40  # of 1 mm
_FWHM = np.sqrt(8 * np.log(2))
_PARAMS = FeatureParams(
    {"binWidth": 10},
    {"Original": {}},
    {"glcm": ("Contrast", "JointEnergy", "Idm"), "glrlm": ("ShortRunEmphasis",), "firstorder": ("Variance",)},
)


def scan(fwhm: float, noise: float, noise_seed: int, white: float = 0.0) -> tuple[Volume, Volume]:
    """The texture as a scanner of that point spread sees it, and a ball in it as ROI; `noise` is the detector's.

    Blurred exactly, in the frequencies of a periodic field. `white` is noise of the pixels that no kernel has shaped.
    """
    n = 240
    fx, fy, fz = np.fft.fftfreq(n, _FINE), np.fft.fftfreq(n, _FINE), np.fft.fftfreq(_SLICES, 1.0)
    square = (fy[:, None] ** 2 + fx**2)[None]
    in_space = 2 * np.pi * 1.5 * np.sqrt(square + fz[:, None, None] ** 2)
    texture = np.fft.fftn(np.random.default_rng(2026).normal(size=(_SLICES, n, n))) / (1 + in_space**2)
    texture *= 60 / np.fft.ifftn(texture).real.std()
    detector = np.fft.fftn(np.random.default_rng(noise_seed).normal(0, noise, (_SLICES, n, n)))
    blur = np.exp(-2 * (np.pi * fwhm / _FWHM) ** 2 * square)
    seen = np.fft.ifftn((texture + detector) * blur).real[:, ::_PIXELS, ::_PIXELS]
    seen += np.random.default_rng(noise_seed + 1000).normal(0, white, seen.shape)
    geometry = Geometry((n // _PIXELS, n // _PIXELS, _SLICES), (0.8, 0.8, 1.0), (0, 0, 0))
    return Volume(np.rint(50 + seen).astype(np.int16), geometry), Volume(_ball(geometry), geometry)


def _ball(geometry: Geometry) -> NDArray[np.uint8]:
    z, y, x = np.indices(geometry.shape)
    index = np.stack([x, y, z], axis=-1)
    away = np.linalg.norm(geometry.to_physical(index) - geometry.centre(), axis=-1)
    return (away < 17).astype(np.uint8)


def features(
    fwhm: float, target: float | None, noise: float = 40.0, noise_seed: int = 0, white: float = 0.0
) -> dict[str, float]:
    """Features of the ball as the chain has them at 1 mm, matched to `target` (FWHM in mm; None: as it is)."""
    image, mask = scan(fwhm, noise, noise_seed, white)
    match = {
        "fwhm_mm": target,
        "fwhm_column": "psf_fwhm_mm",
        "kernels": {},
        "kernel_column": "kernel",
        "thickness_mm": None,
        "blurrier": "exclude",
    }
    sigma = matching_gaussian({"psf_fwhm_mm": str(fwhm)}, match, 1.0)[0]
    resampled = resample_image(image, (1, 1, 1), Sampling(sigma_mm=sigma))
    shown, _ = calibrate_image(resampled, Calibration("none"), round_hu=True)
    found = extract_features(shown, resample_mask(mask, (1, 1, 1))[0], {1: "ball"}, _PARAMS)
    return dict(zip(found.columns, found.rows["ball"], strict=True))


def main() -> None:
    """Print the tables: noise through the kernel, and white noise of the pixels."""
    for noise, white in ((40.0, 0.0), (0.0, 15.0)):
        table(noise, white)


def table(noise: float, white: float) -> None:
    """Print one table."""
    sharp, matched = (features(SHARP, target, noise, 10, white) for target in (None, TARGET))
    soft = features(SOFT, None, noise, 20, white)
    heads = ("feature", f"{SHARP} mm", f"{SOFT} mm", f"{SHARP} mm matched", "difference before", "after", "falls by")
    print(f"| {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|---|")
    for column, name in FEATURES.items():
        before, after = sharp[column] / soft[column] - 1, matched[column] / soft[column] - 1
        cells = [name, *(f"{run[column]:.4g}" for run in (sharp, soft, matched))]
        cells += [f"{before:+.1%}", f"{after:+.1%}", f"{abs(before / after):.0f} x"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
