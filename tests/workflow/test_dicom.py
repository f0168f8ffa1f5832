"""Cases of DICOM in the whole workflow: what counts as a change, what a kill leaves, and what forgetting removes."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from canaries import everything_in
from dicom_files import write_series
from dicom_masks import Drawn, rtstruct, save
from harness import Workspace

from radloom.engine.files import read_json
from radloom.engine.forget import forget
from radloom.salt import hashed


def dicom_case(workspace: Workspace, case_id: str, number: int) -> Path:
    """Turn a case of the workspace into DICOM: a folder with the series and an RTSTRUCT of two ROIs."""
    row = workspace.row(case_id)
    hu = sitk.GetArrayFromImage(sitk.ReadImage(row["image"]))
    folder = workspace.folder.parent / f"dicom {workspace.folder.name}" / case_id
    frame = f"1.2.3.{number}.9"
    place = {"spacing": (1, 1, 2), "origin": (0, 0, 0), "series": f"1.2.3.{number}", "frame_of_reference": frame}
    write_series(folder / "ct", hu, **place)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rois = {
        name: [
            Drawn(np.column_stack([9.5 + radius * np.cos(angles), 9.5 + radius * np.sin(angles), np.full(60, 2.0 * z)]))
            for z in range(4, 10)
        ]
        for name, radius in (("GTV", 4.5), ("GTV small", 3.0))
    }
    save(rtstruct(rois, frame, f"1.2.3.{number}"), folder / "rs.dcm")
    row.update(image=str(folder), mask=str(folder), mask_roi="gtv")
    return folder


@pytest.fixture
def cohort(workspace: Workspace) -> Workspace:
    """A finished workspace of which the cases a1 and a2 are DICOM now, and the others NIfTI as before."""
    for number, case_id in enumerate(("a1", "a2")):
        dicom_case(workspace, case_id, number)
    return workspace


def test_what_counts_as_a_change_and_what_is_left_of_a_case(cohort: Workspace) -> None:
    workspace = cohort
    assert {case for _, case in workspace.run()} == {"a1", "a2", "cohort"}
    assert not workspace.tables()["exclusions.csv"].decode().splitlines()[1:]
    folder = Path(workspace.row("a1")["image"])
    slices = sorted((folder / "ct").iterdir())

    # Other names of the files are no change; a touched file is looked at and found the same.
    slices[3].rename(folder / "IM3")
    slices[4].touch()
    assert workspace.run() == set()
    # One edited slice is one computed case.
    image = pydicom.dcmread(slices[7])
    stored = np.frombuffer(image.PixelData, "<i2").copy()
    stored[210] += 9
    image.PixelData = stored.tobytes()
    image.save_as(slices[7])
    computed = workspace.run()
    assert {("ingest", "a1"), ("resample", "a1"), ("extract", "a1"), ("tables", "cohort")} <= computed
    assert {case for _, case in computed} == {"a1", "cohort"}
    # So is another ROI.
    volume = read_json(workspace.results / "cases" / "a1" / "ingest" / "record.json")["facts"]["mask"]["voxels"]
    workspace.row("a1")["mask_roi"] = "gtv small"
    computed = workspace.run()
    assert {("ingest", "a1"), ("extract", "a1")} <= computed
    assert {case for _, case in computed} == {"a1", "cohort"}
    record = read_json(workspace.results / "cases" / "a1" / "ingest" / "record.json")
    assert record["facts"]["mask"]["voxels"] < volume

    # What a killed run left in a case's folder is removed by the next one.
    left = workspace.results / "cases" / "a1" / "ingest" / ".scratch" / ".source-killed" / "000001"
    left.parent.mkdir(parents=True)
    left.write_text("a patient's pixels")
    for manifest in (workspace.results / "manifests" / "ingest").glob("*.json"):
        manifest.unlink()
    assert workspace.run() == set()
    assert not list(workspace.results.rglob(".scratch"))

    # Another salt is another ingest of what is DICOM, of which the hashes go into the tables, and nothing between.
    salt = workspace.folder / "results.salt"
    assert salt.stat().st_mode & 0o777 == 0o600
    told = record["facts"]["series"]
    assert told == hashed(bytes.fromhex(salt.read_text()), "1.2.3.0")
    salt.unlink()
    assert workspace.run() - {("tables", "cohort")} == {("ingest", "a1"), ("ingest", "a2")}
    assert told not in str(read_json(workspace.results / "cases" / "a1" / "ingest" / "record.json"))


def test_a_forgotten_case_of_dicom_leaves_no_trace(cohort: Workspace) -> None:
    workspace = cohort
    workspace.run(whole=True)
    fetched = workspace.results / "cases" / "a1" / ".fetched" / "00000000"
    fetched.mkdir(parents=True)
    shutil.copy(next(Path(workspace.row("a1")["image"]).rglob("*.dcm")), fetched / "1.dcm")
    facts = read_json(workspace.results / "cases" / "a1" / "ingest" / "record.json")["facts"]
    hashes = [facts["series"], facts["frame_of_reference"]]
    written = dict(everything_in(workspace.results))
    assert any(hashes[0].encode() in content for content in written.values())
    assert forget(workspace.results, "a1", workspace.folder / ".snakemake").removed > 0
    for name, content in everything_in(workspace.results):
        for trace in (b'"a1"', b"a1,", b"case a1", b"cases/a1", *(one.encode() for one in hashes)):
            assert trace not in content, name
    assert not (workspace.results / "cases" / "a1").exists()
    workspace.rows.remove(workspace.row("a1"))
    workspace.run(whole=True)
    for name, content in everything_in(workspace.results, workspace.folder / ".snakemake"):
        for trace in (b'"a1"', b"a1,", b"cases/a1", *(one.encode() for one in hashes)):
            assert trace not in content, name
