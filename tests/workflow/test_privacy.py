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
from dicom_masks import Drawn, rtstruct, save, write_seg
from harness import Workspace, write_case
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import JPEGLSLossless

from radloom.dicom.acquisition_elements import DATES, DESCRIPTIONS, IDENTIFIERS
from radloom.engine.forget import forget


def everything_written(workspace: Workspace, process: subprocess.CompletedProcess[str]) -> dict[str, bytes]:
    found = {"stdout": process.stdout.encode(), "stderr": process.stderr.encode()}
    return found | dict(everything_in(workspace.results, workspace.folder / ".snakemake"))


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
        self,
        radius: float = 5,
        syntax: str | None = None,
        frame: str | None = None,
        series: int = 1,
        seg: bool = False,
        **fields: object,
    ) -> Path:
        """A folder with a series, or several, and the RTSTRUCT or the SEG of a ball; return it."""
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
        if seg:
            self._segment(slices, radius, folder / name())
        else:
            self._draw(radius, frame or own_frame, uid, folder / name())
        return folder

    def _draw(self, radius: float, frame: str, series: str, path: Path) -> None:
        name = self.canaries.word
        drawn = rtstruct({self.roi: self._circles(radius), name(): self._circles(3)}, frame, series)
        drawn.SOPInstanceUID, drawn.SeriesInstanceUID = self.canaries.uid(), self.canaries.uid()
        drawn.StructureSetLabel = name()[:16]
        if not self.planted:
            self.canaries.plant(drawn)
            self.planted = True
        save(drawn, path)

    def _segment(self, slices: list[Dataset], radius: float, path: Path) -> None:
        z, y, x = np.mgrid[0:14, 0:20, 0:20]
        ball = np.sqrt((2 * (z - 7)) ** 2 + (y - 9) ** 2 + (x - 9) ** 2) < radius
        # highdicom looks at what it copies, and refuses canaries.
        own = {Tag(name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")}
        hidden = set(self.template.keys()) - own
        plain = [Dataset({tag: one[tag] for tag in one.keys() if tag not in hidden}) for one in slices]  # noqa: SIM118
        write_seg(path, plain, np.stack([ball, y < 2], axis=-1), labels=[self.roi, self.canaries.word()])
        drawn = pydicom.dcmread(path)
        drawn.SOPInstanceUID, drawn.SeriesInstanceUID = self.canaries.uid(), self.canaries.uid()
        frame = drawn.FrameOfReferenceUID
        self.canaries.plant(drawn)
        drawn.FrameOfReferenceUID = frame
        drawn.save_as(path)
        self.canaries.mark_file(path)

    def _circles(self, radius: float) -> list[Drawn]:
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        found = []
        for z in range(14):
            square = radius**2 - (2 * (z - 6.5)) ** 2
            if square > 0:
                x, y = 9.5 + np.sqrt(square) * np.cos(angles), 9.5 + np.sqrt(square) * np.sin(angles)
                found.append(Drawn(np.column_stack([x, y, np.full(60, 2.0 * z)])))
        return found

    def volume(self, label: int = 1) -> tuple[Path, Path]:
        """A NIfTI image and a NRRD mask with canaries in their headers."""
        image = nib.Nifti1Image(self.hu.T, np.diag([-1.0, -1, 2, 1]))
        for field in ("descrip", "aux_file", "db_name", "intent_name"):
            image.header[field] = self.canaries.word().encode()[: 16 if field != "descrip" else 80]
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", self.canaries.word().encode()))
        paths = self.folder / f"{self.canaries.word()}.nii.gz", self.folder / f"{self.canaries.word()}.nrrd"
        nib.save(image, paths[0])
        mask = sitk.GetImageFromArray(self.mask * label)
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


def test_no_canary_of_a_cohort_gets_out_and_a_forgotten_case_leaves_no_byte(fresh: Callable[[], Workspace]) -> None:
    """Every element of DICOM, every name of a file, an archive, an ROI, a header; in cases that fail in each step."""
    workspace = fresh()
    data = workspace.folder.parent / "data"
    data.mkdir()
    patients = Patients(data)
    canaries = patients.canaries
    roi = patients.roi
    archive = patients.zipped(patients.case())
    described = patients.case(series=2)
    description = str(patients.template.SeriesDescription)
    both = patients.case(KVP=100)
    pattern = f"{description[:9]}*"
    kernel = patients.case(ConvolutionKernel=f"B3 {patients.template.PatientID}", Manufacturer=description)
    typed = patients.case(seg=True, ConvolutionKernel="Mary", ManufacturerModelName="Jane", SoftwareVersions="Anna")
    broken_zip = truncated(patients.zipped(patients.case()))
    alien = patients.case(frame=canaries.uid())
    point, small, little = patients.case(radius=0.5, seg=True), patients.case(radius=2.4), patients.case(radius=3.4)
    burnt = patients.case(BurnedInAnnotation="YES")
    text = data / f"{canaries.word()}.nii.gz"
    text.write_text("no image")
    rows: dict[str, tuple[Path | tuple[Path, Path], str, str, str]] = {
        "folder": (both, roi, "", ""),
        "zip": (archive, f"{roi[:10]}*{roi[-3:]}", "", ""),
        "volume": (patients.volume(), "", "", ""),
        "withdrawn": (kernel, roi.lower(), pattern, ""),
        "unwithdrawn": (typed, roi, "", ""),
        "pixels": (damage_pixels(patients.case(syntax=JPEGLSLossless)), roi, "", ""),
        "two_series": (described, roi, "", ""),
        "two_patterns": (described, roi, pattern, ""),
        "wrong_roi": (both, canaries.word(), "", ""),
        "several_rois": (both, f"{WORD}*", "", ""),
        "wrong_series": (both, roi, canaries.word(), ""),
        "alien_mask": (alien, roi, "", ""),
        "torn": (one_file_truncated(patients.case()), roi, "", ""),
        "torn_zip": (broken_zip, roi, "", ""),
        "no_image": (text, "", "", ""),
        "broken_volume": (truncated(patients.volume()[0]), "", "", ""),
        "point": (point, roi, "", ""),
        "phantom": (both, roi, "", "150"),
        "other_label": (patients.volume(label=7), "", "", ""),
        "small": (small, roi, "", ""),
        "little": (little, roi, "", ""),
        "burnt": (burnt, roi, "", ""),
    }
    workspace.rows = []
    for case_id, (source, mask_roi, series, water) in rows.items():
        image, mask = source if isinstance(source, tuple) else (source, source)
        cells = {"mask_roi": mask_roi, "series": series, "water_hu": water, "air_hu": water and "-1000"}
        # One centre, one chunk: the time goes into starting jobs.
        workspace.rows.append({"case_id": case_id, "centre": "alpha", "image": str(image), "mask": str(mask), **cells})
    workspace.config |= {
        "cases_per_job": 50,
        "max_excluded_fraction": 0.95,
        "harmonize": {"small_batch": "passthrough", "min_batch_size": 2},
        "resample": {"spacing": [2, 2, 2]},
        "segment": {"labels": {1: "tumour"}},
        "postprocess": {"min_volume_mm3": 80},
        "extract": {**workspace.config["extract"], "min_voxels": 40},
        "quality": {"rules": [{"figure": "burned_in_slices", "above": 0, "action": "exclude"}]},
        "ingest": {"timeout_s": 60},
    }
    process = workspace.run_command()
    assert process.returncode == 0, process.stderr[-3000:]
    exclusions = pd.read_csv(workspace.results / "tables" / "exclusions.csv").set_index("case_id")
    included = pd.read_csv(workspace.results / "tables" / "features_raw.csv")["case_id"]
    assert set(included) == {"folder", "zip", "volume", "withdrawn", "unwithdrawn"}, exclusions["reason"].to_dict()
    for case_id, (step, reason) in {
        "pixels": ("ingest", "pixel|decod|damaged"),
        "two_series": ("ingest", "2 CT series to choose from"),
        "two_patterns": ("ingest", "2 CT series to choose from"),
        "wrong_roi": ("ingest", "none is what mask_roi asks for"),
        "several_rois": ("ingest", "mask_roi fits 2 of them"),
        "wrong_series": ("ingest", "none of the CT series is the wanted one"),
        "alien_mask": ("ingest", "another frame of reference"),
        "torn": ("ingest", "damaged"),
        "torn_zip": ("ingest", "archive of the image can't be unpacked"),
        "no_image": ("ingest", "image"),
        "broken_volume": ("ingest", "truncated|damaged|cut"),
        "point": ("resample", "nothing of the mask is left"),
        "phantom": ("calibrate", "water_hu 150 is more than"),
        "other_label": ("segment", "the mask has the labels 7"),
        "small": ("postprocess", "no ROI is left"),
        "little": ("extract", "voxels"),
        "burnt": ("quality", "burnt-in text is 14"),
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
    acquisition = pd.read_csv(workspace.results / "tables" / "acquisition.csv").set_index("case_id")
    assert acquisition.loc["unwithdrawn", ["kernel", "scanner_model", "software"]].isna().all()

    log = workspace.folder / ".snakemake" / "log" / "stopped.snakemake.log"
    log.write_text("case withdrawn: the process was killed from outside")
    assert forget(workspace.results, "withdrawn", workspace.folder / ".snakemake").removed > 0
    assert forget(workspace.results, "torn", workspace.folder / ".snakemake").removed > 0
    kept = dict(everything_in(workspace.results, workspace.folder / ".snakemake"))
    names = re.compile(rb"(?<![A-Za-z0-9])(withdrawn|torn)(?![A-Za-z0-9_])")
    assert not [name for name, content in kept.items() if names.search(content)]
    assert any(b"unwithdrawn" in content for content in kept.values())
    assert any(b"torn_zip" in content for content in kept.values())


@pytest.mark.parametrize("case", ["zz", "../a2", ""])
def test_a_case_that_is_not_there_forgets_nothing(finished: Workspace, case: str) -> None:
    before = finished.tables()
    with pytest.raises(ValueError, match="case"):
        forget(finished.results, case, finished.folder / ".snakemake")
    with pytest.raises(ValueError, match="RESULTS"):
        forget(finished.folder, "a2", finished.folder / ".snakemake")
    assert finished.tables() == before


def test_after_a_case_was_forgotten_no_other_is_computed_again(workspace: Workspace) -> None:
    forgotten = forget(workspace.results, "a2", workspace.folder / ".snakemake")
    assert any("cohort.tsv: the case's row" in text for text in forgotten.left)
    workspace.rows.remove(workspace.row("a2"))
    assert {case for _, case in workspace.run(whole=True)} == {"cohort"}
    named = re.compile(rb"(?<![A-Za-z0-9])a2(?![A-Za-z0-9])")
    for path in [*workspace.results.rglob("*"), *(workspace.folder / ".snakemake").rglob("*")]:
        assert path.name != "a2"
        if path.is_file() and path.suffix in (".json", ".csv", ".html", ".log", ".jsonl", ".md", ""):
            content = re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", path.read_bytes())
            assert not named.search(content), path
