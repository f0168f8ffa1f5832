"""Nothing of who a patient is reaches anything that a run writes, also when cases fail in whatever stage."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from canaries import UID, WORD, Canaries, everything_in
from dicom_files import ct_datasets, write_datasets
from dicom_masks import Drawn, rtstruct, save
from harness import Workspace, write_case
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless

from radloom.dicom.acquisition_elements import DATES, DESCRIPTIONS, IDENTIFIERS
from radloom.engine.forget import forget

CANARY = "Jane_Doe_1957"


def everything_written(workspace: Workspace, process: subprocess.CompletedProcess[str]) -> dict[str, bytes]:
    found = {"stdout": process.stdout.encode(), "stderr": process.stderr.encode()}
    return found | dict(everything_in(workspace.results, workspace.folder / ".snakemake"))


def test_a_patients_name_in_paths_stays_in_the_sheet(fresh: Callable[[], Workspace]) -> None:
    workspace = fresh()
    private = workspace.folder / "scans" / CANARY
    private.mkdir(parents=True)
    for row in workspace.rows:
        for column in ("image", "mask"):
            row[column] = str(shutil.copy(row[column], private / f"{CANARY}_{Path(row[column]).name}"))
    # One case is truncated, one is no image at all, one is a folder.
    broken = {row["case_id"]: Path(row["image"]) for row in workspace.rows}
    broken["a1"].write_bytes(broken["a1"].read_bytes()[:500])
    broken["a2"].write_bytes(b"not an image")
    broken["b1"].unlink()
    broken["b1"].mkdir()
    workspace.config["max_excluded_fraction"] = 0.9
    workspace.config["harmonize"] = {"small_batch": "passthrough", "min_batch_size": 2}
    process = workspace.run_command()
    exclusions = workspace.tables()["exclusions.csv"].decode()
    assert [line.split(",")[0] for line in exclusions.splitlines()[1:]] == ["a1", "a2", "b1"]
    for name, content in everything_written(workspace, process).items():
        assert CANARY.encode() not in content, name
        assert CANARY not in name


class Patients:
    """DICOM of made-up patients, of whom every element, name and text is a canary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canaries = Canaries()
        image, mask = write_case(folder, "ball", 0)
        self.hu = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
        self.mask = sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))
        self.template = Dataset()
        self.canaries.plant(self.template)
        self.roi = self.canaries.word()
        self.planted = False  # one RTSTRUCT with every element is enough

    def case(
        self, radius: float = 5, syntax: str | None = None, frame: str | None = None, series: int = 1, **fields: object
    ) -> Path:
        """A folder with a series, or several, and the RTSTRUCT of a ball; return it."""
        name = self.canaries.word
        folder = self.folder / name() / f"{name()} \u00e9"
        study, own_frame = self.canaries.uid(), self.canaries.uid()

        def change(k: int, ds: Dataset) -> None:
            if not k:  # the others have what identifies alone, or the files would be large and slow
                ds.update({tag: self.template[tag] for tag in self.template.keys() if tag not in ds})  # noqa: SIM118
            for keyword in (*IDENTIFIERS, *DESCRIPTIONS, *DATES):
                if not keyword.endswith("UID"):
                    ds[keyword] = self.template[keyword]
            ds.SOPInstanceUID = self.canaries.uid()
            ds.SeriesNumber = "1907399"
            for keyword, value in fields.items():
                setattr(ds, keyword, value)

        for _ in range(series):
            uid = self.canaries.uid()
            slices = ct_datasets(
                self.hu,
                spacing=(1, 1, 2),
                origin=(0, 0, 0),
                series=uid,
                study=study,
                frame_of_reference=own_frame,
                change=change,
            )
            names = [name() for _ in slices]
            written = write_datasets(folder / name(), slices, names=names, **({"syntax": syntax} if syntax else {}))
            self.canaries.mark_file(written[-1])
        drawn = rtstruct({self.roi: self._circles(radius), name(): self._circles(3)}, frame or own_frame, uid)
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            setattr(drawn, keyword, self.canaries.uid())
        drawn.StructureSetLabel = name()[:16]
        if not self.planted:
            self.canaries.plant(drawn)
            self.planted = True
        save(drawn, folder / name())
        return folder

    def _circles(self, radius: float) -> list[Drawn]:
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        found = []
        for z in range(14):
            square = radius**2 - (2 * (z - 6.5)) ** 2
            if square > 0:
                x, y = 9.5 + np.sqrt(square) * np.cos(angles), 9.5 + np.sqrt(square) * np.sin(angles)
                found.append(Drawn(np.column_stack([x, y, np.full(60, 2.0 * z)])))
        return found

    def volume(self) -> tuple[Path, Path]:
        """A NIfTI image and a NRRD mask with canaries in their headers."""
        image = nib.Nifti1Image(self.hu.T, np.diag([-1.0, -1, 2, 1]))
        for field in ("descrip", "aux_file", "db_name", "intent_name"):
            image.header[field] = self.canaries.word().encode()[: 16 if field != "descrip" else 80]
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", self.canaries.word().encode()))
        paths = self.folder / f"{self.canaries.word()}.nii.gz", self.folder / f"{self.canaries.word()}.nrrd"
        nib.save(image, paths[0])
        mask = sitk.GetImageFromArray(self.mask)
        mask.SetSpacing((1, 1, 2))
        mask.SetMetaData("patient", self.canaries.word())
        sitk.WriteImage(mask, str(paths[1]))
        return paths

    def zipped(self, folder: Path, suffix: str = "zip") -> Path:
        return Path(shutil.make_archive(str(folder.parent / self.canaries.word()), suffix, folder))


def damage_pixels(folder: Path) -> Path:
    """Break the JPEG-LS stream of one slice."""
    start = b"\xff\xd8\xff\xf7"
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file() and start in path.read_bytes())
    content = bytearray(path.read_bytes())
    place = content.index(start)
    content[place + 4 : place + 60] = b"\x55" * 56
    path.write_bytes(content)
    return folder


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def one_file_truncated(folder: Path) -> Path:
    truncated(max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0))
    return folder


def test_no_canary_of_a_cohort_of_dicom_gets_out(fresh: Callable[[], Workspace]) -> None:
    """Every element of DICOM, every name of a file, an archive, an ROI, a header; in cases that fail in each stage."""
    workspace = fresh()
    data = workspace.folder.parent / "data"
    data.mkdir()
    patients = Patients(data)
    canaries = patients.canaries
    roi = patients.roi
    image, mask = patients.volume()
    archive = patients.zipped(patients.case())
    described = patients.case(series=2)
    description = str(patients.template.SeriesDescription)
    both = patients.case(KVP=100)
    pattern = f"{description[:9]}*"
    kernel = patients.case(ConvolutionKernel=f"B3 {patients.template.PatientID}", Manufacturer=description)
    broken_zip = truncated(patients.zipped(patients.case()))
    alien = patients.case(frame=canaries.uid())
    rows = {
        "folder": (both, both, roi, ""),
        "zip": (archive, archive, f"{roi[:10]}*{roi[-3:]}", ""),
        "volume": (image, mask, "", ""),
        "series": (kernel, kernel, roi.lower(), pattern),
        "pixels": (damage_pixels(patients.case(syntax=JPEGLSLossless)), "", "", ""),
        "two_series": (described, described, roi, ""),
        "two_patterns": (described, described, roi, pattern),
        "wrong_roi": (both, both, canaries.word(), ""),
        "several_rois": (both, both, f"{WORD}*", ""),
        "wrong_series": (both, both, roi, canaries.word()),
        "alien_mask": (alien, alien, roi, ""),
        "damaged": (one_file_truncated(patients.case()), "", "", ""),
        "damaged_zip": (broken_zip, broken_zip, roi, ""),
        "tiny": (small := patients.case(radius=1.5), small, roi, ""),
    }
    workspace.rows = [
        {
            "case_id": case_id,
            "centre": "alpha" if n % 2 else "beta",
            "image": str(cells[0]),
            "mask": str(cells[1]),
            "mask_roi": cells[2],
            "series": cells[3],
        }
        for n, (case_id, cells) in enumerate(rows.items())
    ]
    workspace.config |= {
        "cases_per_job": 7,
        "max_excluded_fraction": 0.95,
        "harmonize": {"small_batch": "passthrough", "min_batch_size": 2},
        "extract": {**workspace.config["extract"], "min_voxels": 40},
        "ingest": {"timeout_s": 60},
    }
    process = workspace.run_command()
    assert process.returncode == 0, process.stderr[-3000:]
    exclusions = pd.read_csv(workspace.results / "tables" / "exclusions.csv").set_index("case_id")
    included = pd.read_csv(workspace.results / "tables" / "features_raw.csv")["case_id"]
    assert set(included) == {"folder", "zip", "volume", "series"}, exclusions["reason"].to_dict()
    for case_id, (step, reason) in {
        "pixels": ("ingest", "pixel|decod|damaged"),
        "two_series": ("ingest", "2 CT series to choose from"),
        "two_patterns": ("ingest", "2 CT series to choose from"),
        "wrong_roi": ("ingest", "none is what mask_roi asks for"),
        "several_rois": ("ingest", "mask_roi fits 2 of them"),
        "wrong_series": ("ingest", "none of the CT series is the wanted one"),
        "alien_mask": ("ingest", "another frame of reference"),
        "damaged": ("ingest", "damaged"),
        "damaged_zip": ("ingest", "archive of the image can't be unpacked"),
        "tiny": ("extract", "voxels"),
    }.items():
        assert exclusions.loc[case_id, "step"] == step, exclusions.loc[case_id].to_dict()
        assert re.search(reason, exclusions.loc[case_id, "reason"]), exclusions.loc[case_id].to_dict()
    written = everything_written(workspace, process)
    salt = (workspace.folder / "results.salt").read_bytes()
    told = {name: canaries.found_in(content) for name, content in written.items()}
    assert not {name: found[:3] for name, found in told.items() if found}
    assert not [name for name, content in written.items() if salt.strip() in content]
    # The search itself finds what there is to be found.
    sheet = (workspace.folder / "cohort.tsv").read_bytes()
    assert canaries.found_in(sheet)
    assert canaries.found_in(sheet.decode().upper().encode("utf-16"))
    assert len(canaries.found_in(",".join(canaries.numbers).encode())) == len(canaries.numbers)
    assert UID in pydicom.dcmread(next(p for p in both.rglob("*") if p.is_file())).SOPInstanceUID


@pytest.mark.parametrize("case", ["zz", "../a2", ""])
def test_a_case_that_is_not_there_forgets_nothing(workspace: Workspace, case: str) -> None:
    before = workspace.tables()
    with pytest.raises(ValueError, match="case"):
        forget(workspace.results, case)
    with pytest.raises(ValueError, match="RESULTS"):
        forget(workspace.folder, "a2")
    assert workspace.tables() == before


def test_a_forgotten_case_leaves_no_trace(workspace: Workspace) -> None:
    assert forget(workspace.results, "a2") > 0
    workspace.rows.remove(workspace.row("a2"))
    workspace.run(whole=True)
    for path in workspace.results.rglob("*"):
        assert path.name != "a2"
        if path.is_file() and path.suffix in (".json", ".csv", ".html", ".log", ".jsonl"):
            assert b'"a2"' not in path.read_bytes(), path
            assert b"a2," not in path.read_bytes(), path
