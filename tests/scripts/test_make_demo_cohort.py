"""The demonstration's cohort is deterministic, holds what its sheet says, and keeps its truth beside it."""

import csv
import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

Rows = list[dict[str, str]]


def run(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = repo / "workflow/scripts/make_demo_cohort.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def cohort(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    done = run(repo, "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert "wrote 64 cases of 3 centres, 4 of them broken on purpose" in done.stdout
    return folder


@pytest.fixture(scope="module")
def small(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    assert run(repo, "--out", str(folder), "--patients", "5").returncode == 0
    return folder


def test_the_same_seed_writes_the_same_bytes(repo: Path, small: Path, tmp_path: Path) -> None:
    assert run(repo, "--out", str(tmp_path / "again"), "--patients", "5").returncode == 0
    assert digests(small) == digests(tmp_path / "again")


def test_more_patients_leave_the_first_ones_as_they_are(cohort: Path, small: Path) -> None:
    first = {row["case_id"]: row for row in read(cohort / "cohort.tsv")}
    clinical = {row["patient_id"]: row for row in read(cohort / "clinical.tsv")}
    truth = {row["case_id"]: row for row in read(small / "truth/cases.tsv")}
    for row in read(small / "cohort.tsv"):
        if not truth[row["case_id"]]["broken"]:
            assert first[row["case_id"]] == row
            assert (cohort / row["image"]).read_bytes() == (small / row["image"]).read_bytes()
    for row in read(small / "clinical.tsv"):
        if int(row["patient_id"][1:]) <= 5:
            assert clinical[row["patient_id"]] == row


def test_another_seed_is_another_cohort(repo: Path, small: Path, tmp_path: Path) -> None:
    assert run(repo, "--out", str(tmp_path), "--patients", "1", "--seed", "2").returncode == 0
    assert (tmp_path / "images/alder_01.nii.gz").read_bytes() != (small / "images/alder_01.nii.gz").read_bytes()


def test_centres_formats_and_events(cohort: Path) -> None:
    sheet, clinical = read(cohort / "cohort.tsv"), read(cohort / "clinical.tsv")
    truth = {row["case_id"]: row for row in read(cohort / "truth/cases.tsv")}
    assert [row["patient_id"] for row in sheet] == [row["patient_id"] for row in clinical]
    assert {"".join(Path(row["image"]).suffixes) for row in sheet} == {".nii.gz", ".nrrd", ".mha"}
    good = [i for i, row in enumerate(sheet) if not truth[row["case_id"]]["broken"]]
    for centre in ("alder", "birch", "cedar"):
        members = [i for i in good if sheet[i]["centre"] == centre]
        assert len(members) == 20
        assert sum(int(clinical[i]["event"]) for i in members) > 0
    events = [int(clinical[i]["event"]) for i in good]
    outcomes = [int(clinical[i]["outcome"]) for i in good]
    assert sum(events) >= 30
    assert min(sum(outcomes), len(good) - sum(outcomes)) >= 20
    assert min(int(row["time_days"]) for row in clinical) >= 1
    # The hazard is carried by both the size and the texture of the tumour.
    for column in ("volume_score", "texture_score"):
        score = np.array([float(truth[sheet[i]["case_id"]][column]) for i in good])
        assert score[np.array(events) == 1].mean() > score[np.array(events) == 0].mean() + 0.3


def test_good_images_and_masks_lie_where_the_truth_does(small: Path) -> None:
    truth = {row["case_id"]: row for row in read(small / "truth/cases.tsv")}
    spacings = set()
    for row in read(small / "cohort.tsv"):
        if truth[row["case_id"]]["broken"]:
            continue
        image, mask = sitk.ReadImage(small / row["image"]), sitk.ReadImage(small / row["mask"])
        assert image.GetPixelID() == sitk.sitkInt16
        assert image.GetSize() == mask.GetSize()
        assert image.GetDirection() == mask.GetDirection()
        spacings.add(image.GetSpacing()[2])
        labels = sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS"))
        true = sitk.GetArrayFromImage(sitk.ReadImage(small / f"truth/{row['case_id']}.nii.gz"))
        assert np.array_equal(labels, true)
        voxel = np.prod(mask.GetSpacing())
        assert (true == 2).sum() * voxel == pytest.approx(float(truth[row["case_id"]]["tumour_mm3"]), rel=1e-5)
        # Air is where the drift sends -1000 HU.
        line = (float(truth[row["case_id"]]["hu_slope"]), float(truth[row["case_id"]]["hu_intercept"]))
        array = sitk.GetArrayFromImage(image)
        assert array[:, :4, :4].mean() == pytest.approx(line[0] * -1000 + line[1], abs=1)
    assert len(spacings) == 3


def test_the_sheet_has_the_measured_values_of_one_centre(small: Path) -> None:
    truth = {row["case_id"]: row for row in read(small / "truth/cases.tsv")}
    for row in read(small / "cohort.tsv"):
        assert (row["water_hu"] != "") == (row["air_hu"] != "") == (row["centre"] == "alder")
        if row["centre"] == "alder":
            water, air = float(row["water_hu"]), float(row["air_hu"])
            assert float(truth[row["case_id"]]["hu_intercept"]) == water
            assert float(truth[row["case_id"]]["hu_slope"]) == pytest.approx((water - air) / 1000)


def test_cases_are_broken_as_said(small: Path) -> None:
    sheet = {row["case_id"]: row for row in read(small / "cohort.tsv")}
    broken = {row["broken"]: sheet[row["case_id"]] for row in read(small / "truth/cases.tsv") if row["broken"]}
    assert sorted(broken) == ["empty mask", "mask on another grid", "no tumour", "truncated file"]
    assert not sitk.GetArrayFromImage(sitk.ReadImage(small / broken["empty mask"]["mask"])).any()
    other = broken["mask on another grid"]
    image, mask = sitk.ReadImage(small / other["image"]), sitk.ReadImage(small / other["mask"])
    assert np.abs(np.subtract(image.GetOrigin(), mask.GetOrigin())).max() > 10
    labels = sitk.GetArrayFromImage(sitk.ReadImage(small / broken["no tumour"]["mask"]))
    assert np.unique(labels).tolist() == [0, 1]
    with pytest.raises(EOFError):
        gzip.decompress((small / broken["truncated file"]["image"]).read_bytes())


def test_nonsense_is_refused(repo: Path, tmp_path: Path) -> None:
    done = run(repo, "--out", str(tmp_path), "--patients", "0")
    assert done.returncode == 2
    assert "--patients must be at least 1" in done.stderr
