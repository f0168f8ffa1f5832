"""Write the demonstration cohort: CT phantoms of three centres, with the truth beside them.

By hand: make_demo_cohort.py --out DIR [--seed 1] [--patients 20]

DIR/cohort.tsv     cohort sheet; the paths in it are relative to DIR
DIR/clinical.tsv   clinical table with a time to event, a binary outcome and covariates
DIR/images, masks  NIfTI, and some NRRD and MHA; the masks say 1 organ, 2 tumour
DIR/truth          true labels, and cases.tsv with drift, tumour volume, texture and hazard of every case

Each centre has `--patients` good cases. Four more are broken on purpose: an empty mask, a truncated file, a mask on
another grid, and a patient without a tumour.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from radloom.phantoms import (
    Anatomy,
    Phantom,
    Scanner,
    draw_anatomy,
    drift_line,
    make_phantom,
    simulate_outcome,
    simulate_survival,
    water_air_line,
)

LOG_HAZARD_VOLUME = float(np.log(3.0))
LOG_HAZARD_TEXTURE = float(np.log(2.5))
"""Log hazard ratio of one standard deviation of the log volume and of the log texture of the tumour."""
LOG_ODDS_VOLUME = 1.2
LOG_ODDS_TEXTURE = 1.0
FOLLOW_UP_DAYS = (900.0, 2190.0)
DRIFT = 0.012
"""The drift e of the centre that has no phantom scan: it belongs into the configuration."""


@dataclass(frozen=True)
class Centre:
    """What sets a centre apart."""

    name: str
    kernel: str
    spacing: tuple[float, float, float]
    psf_fwhm_mm: float
    noise_hu: float
    baseline_hazard: float
    """Events per day of a patient with an average tumour."""
    outcome_log_odds: float
    mean_age: float
    drift: float
    measures_phantom: bool
    """Whether water and air were measured with each scan."""
    orientation: str
    odd_format: str
    """Format of every fifth case; the others are NIfTI."""


CENTRES = (
    Centre("alder", "sharp", (1.8, 1.8, 3.0), 1.4, 13.0, 1 / 900, 0.4, 58.0, 0.0, True, "LPS", ".nii.gz"),
    Centre("birch", "standard", (2.1, 2.1, 4.0), 2.4, 9.0, 1 / 1500, -0.1, 63.0, DRIFT, False, "RAS", ".nrrd"),
    Centre("cedar", "soft", (2.5, 2.5, 5.0), 3.4, 6.0, 1 / 2400, -0.6, 67.0, 0.0, False, "LPS", ".mha"),
)

EMPTY_MASK = "empty mask"
TRUNCATED = "truncated file"
OTHER_GRID = "mask on another grid"
NO_TUMOUR = "no tumour"
BROKEN = {"alder": (EMPTY_MASK,), "birch": (TRUNCATED, NO_TUMOUR), "cedar": (OTHER_GRID,)}


def _image(array: np.ndarray, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> Any:
    """A SimpleITK image in LPS axes of an array (z, y, x)."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def _truncate(path: Path) -> None:
    """Keep the first half of a file, as a broken transfer does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_case(out: Path, case_id: str, phantom: Phantom, centre: Centre, suffix: str, broken: str) -> tuple[str, str]:
    """Write image, mask and true labels of a case; returns the paths of image and mask relative to `out`."""
    nz, ny, nx = phantom.image.shape
    sx, sy, sz = phantom.spacing
    origin = (-(nx - 1) / 2 * sx, -(ny - 1) / 2 * sy, -(nz - 1) / 2 * sz)
    image = _image(np.rint(phantom.image).astype(np.int16), phantom.spacing, origin)
    truth = _image(phantom.labels, phantom.spacing, origin)
    mask = sitk.Image(truth)
    if broken == EMPTY_MASK:
        mask = mask * 0
    elif broken == OTHER_GRID:
        mask.SetOrigin((origin[0] + 12.0, origin[1], origin[2]))
    image_path = Path("images") / f"{case_id}{suffix}"
    mask_path = Path("masks") / f"{case_id}{suffix}"
    for volume, path in ((image, image_path), (mask, mask_path)):
        sitk.WriteImage(sitk.DICOMOrient(volume, centre.orientation), out / path, useCompression=True)
    sitk.WriteImage(truth, out / "truth" / f"{case_id}.nii.gz", useCompression=True)
    if broken == TRUNCATED:
        _truncate(out / image_path)
    return image_path.as_posix(), mask_path.as_posix()


def _scanner(centre: Centre, rng: np.random.Generator) -> tuple[Scanner, dict[str, str]]:
    """The scanner on the day of a scan, and the water and air values that go into the cohort sheet."""
    if centre.measures_phantom:
        # As read off the screen, so that the sheet is exact.
        water, air = round(rng.normal(-9.0, 4.0), 1), round(rng.normal(-985.0, 4.0), 1)
        slope, intercept = water_air_line(water, air)
        sheet = {"water_hu": f"{water:.1f}", "air_hu": f"{air:.1f}"}
    else:
        slope, intercept = drift_line(centre.drift)
        sheet = {"water_hu": "", "air_hu": ""}
    return (
        Scanner(
            spacing=centre.spacing,
            psf_fwhm_mm=centre.psf_fwhm_mm,
            noise_hu=centre.noise_hu,
            hu_slope=slope,
            hu_intercept=intercept,
        ),
        sheet,
    )


def _stage(anatomy: Anatomy, rng: np.random.Generator) -> str:
    """A stage that follows the tumour's size loosely."""
    score = 0.7 * anatomy.volume_score + 0.7 * rng.normal()
    return "I" if score < -0.4 else "II" if score < 0.5 else "III"


def _number(value: float) -> str:
    """A number as text that is read back to the last bit."""
    return repr(float(value))


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make_cohort(out: Path, seed: int, patients: int) -> int:
    """Write the cohort into `out` and return the number of cases.

    A case depends on the seed and on its own number alone, so that more patients leave the first ones as they are.
    """
    for name in ("images", "masks", "truth"):
        (out / name).mkdir(parents=True, exist_ok=True)
    sheet, clinical, truth = [], [], []
    for centre_number, centre in enumerate(CENTRES):
        kinds = [""] * patients + list(BROKEN[centre.name])
        for number, broken in enumerate(kinds, start=1):
            case_id = f"{centre.name}_{number:02d}"
            patient_id = f"{centre.name[0].upper()}{number:03d}"
            key = number if not broken else 10_000 + number - patients
            rng = np.random.default_rng([seed, centre_number, key])
            anatomy = draw_anatomy(rng, with_tumour=broken not in (EMPTY_MASK, NO_TUMOUR))
            scanner, measured = _scanner(centre, rng)
            phantom = make_phantom(anatomy, scanner, rng)
            suffix = centre.odd_format if not broken and number % 5 == 0 else ".nii.gz"
            image, mask = write_case(out, case_id, phantom, centre, suffix, broken)

            volume, texture = anatomy.volume_score, anatomy.texture_score
            log_hazard = LOG_HAZARD_VOLUME * volume + LOG_HAZARD_TEXTURE * texture
            log_odds = centre.outcome_log_odds + LOG_ODDS_VOLUME * volume + LOG_ODDS_TEXTURE * texture
            time, event = simulate_survival(
                np.array([log_hazard]),
                rng,
                baseline_hazard=centre.baseline_hazard,
                shortest_follow_up=FOLLOW_UP_DAYS[0],
                follow_up=FOLLOW_UP_DAYS[1],
            )
            outcome = simulate_outcome(np.array([log_odds]), rng)
            sheet.append(
                {
                    "case_id": case_id,
                    "patient_id": patient_id,
                    "centre": centre.name,
                    "image": image,
                    "mask": mask,
                    "kernel": centre.kernel,
                    **measured,
                }
            )
            clinical.append(
                {
                    "patient_id": patient_id,
                    "time_days": str(max(1, round(float(time[0])))),
                    "event": str(event[0]),
                    "outcome": str(outcome[0]),
                    "age": str(round(float(np.clip(rng.normal(centre.mean_age, 9.0), 30, 90)))),
                    "sex": str(rng.choice(["F", "M"])),
                    "stage": _stage(anatomy, rng),
                }
            )
            voxel_mm3 = float(np.prod(phantom.spacing))
            tumour_mm3 = np.count_nonzero(phantom.labels == 2) * voxel_mm3
            organ_mm3 = np.count_nonzero(phantom.labels == 1) * voxel_mm3
            truth.append(
                {
                    "case_id": case_id,
                    "centre": centre.name,
                    "broken": broken,
                    "hu_slope": _number(scanner.hu_slope),
                    "hu_intercept": _number(scanner.hu_intercept),
                    "organ_hu": _number(anatomy.organ_hu),
                    "organ_mm3": _number(organ_mm3),
                    "tumour_mm3": _number(tumour_mm3),
                    "tumour_hu": _number(anatomy.tumour_hu),
                    "tumour_texture_hu": _number(anatomy.tumour_texture_hu),
                    "volume_score": _number(volume),
                    "texture_score": _number(texture),
                    "log_hazard": _number(log_hazard),
                    "log_odds": _number(log_odds),
                }
            )
    _write_table(out / "clinical.tsv", clinical)
    _write_table(out / "truth" / "cases.tsv", truth)
    # Last: whoever finds the sheet finds all that it names.
    _write_table(out / "cohort.tsv", sheet)
    return len(sheet)


def main() -> None:
    """Read the command line and write the cohort."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=1, help="another seed is another cohort (default 1)")
    parser.add_argument("--patients", type=int, default=20, help="good cases of each centre (default 20)")
    args = parser.parse_args()
    if args.patients < 1:
        parser.error("--patients must be at least 1")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    count = make_cohort(args.out, args.seed, args.patients)
    print(f"wrote {count} cases of {len(CENTRES)} centres, {sum(map(len, BROKEN.values()))} of them broken on purpose")


if __name__ == "__main__":
    main()
