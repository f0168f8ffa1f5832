"""The whole chain from a series on a DICOMweb server, and its headers' kernel as the batch."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from dicomweb_server import Answer, Server, serving
from harness import CASES, IMAGING, Pairs, Workspace
from orthanc import running_orthanc
from pydicom import dcmread

STUDY, SERIES = "1.2.826.0.1.4711", "1.2.826.0.1.4711.1"
COHORT: Pairs = {("tables", "cohort"), ("harmonize", "cohort"), ("report", "cohort")}


def _as_dicom(image: Path, folder: Path, kernel: str) -> list[Path]:
    volume = sitk.ReadImage(str(image))
    array = sitk.GetArrayFromImage(volume).astype(np.int16)
    place = {"spacing": volume.GetSpacing(), "origin": volume.GetOrigin()}
    fields = {"ConvolutionKernel": kernel, "StudyDate": "20050415", "Manufacturer": "SIEMENS"}
    return write_series(folder, array, study=STUDY, series=SERIES, **place, **fields)


def _rows(workspace: Workspace, table: str) -> dict[str, dict[str, str]]:
    reader = csv.DictReader(io.StringIO(workspace.tables()[table].decode()))
    return {row["case_id"]: row for row in reader}


def _one_scan_three_ways(workspace: Workspace, url: str, folder: Path) -> None:
    """Let a1 be a NIfTI file, a2 the same scan as a folder of DICOM, and a3 the same on a server."""
    first = workspace.row("a1")
    for case_id, image in (("a2", str(folder)), ("a3", url)):
        workspace.row(case_id).update(image=image, mask=first["mask"])
    for case_id in ("a1", "b1", "b2"):
        workspace.row(case_id)["kernel"] = "B30f"


@pytest.mark.slow
def test_the_chain_from_a_url(fresh: Callable[[], Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = fresh()
    workspace.config["cases_per_job"] = 5
    workspace.set("harmonize", batch="kernel")
    files = _as_dicom(Path(workspace.row("a1")["image"]), tmp_path / "scan", "B30f")
    with running_orthanc(tmp_path / "orthanc", ("me", "secret-4711")) as orthanc:
        orthanc.store(files)
        monkeypatch.setenv("RADLOOM_DICOMWEB_HOST", orthanc.host)
        monkeypatch.setenv("RADLOOM_DICOMWEB_USER", "me")
        monkeypatch.setenv("RADLOOM_DICOMWEB_PASSWORD", "secret-4711")
        _one_scan_three_ways(workspace, orthanc.series_url(STUDY, SERIES), tmp_path / "scan")
        assert workspace.run(whole=True) >= {(step, case) for step in IMAGING for case in CASES} | COHORT
    features = _rows(workspace, "features_raw.csv")
    numbers = [{k: v for k, v in features[case].items() if "id" not in k} for case in ("a1", "a2", "a3")]
    assert numbers[0] == numbers[1] == numbers[2]
    acquisition = _rows(workspace, "acquisition.csv")
    told = [(acquisition[case]["manufacturer"], acquisition[case]["scan_day"]) for case in ("a1", "a2", "a3")]
    assert told == [("", ""), ("Siemens", "0"), ("Siemens", "0")]
    assert {row["kernel"] for row in _rows(workspace, "cohort.csv").values()} == {"B30f"}

    # The server is gone, and a header has changed in nothing but its kernel: what doesn't hang on it is as it was.
    _as_dicom(Path(workspace.row("a1")["image"]), tmp_path / "scan", "B70s")
    assert workspace.run(whole=True) == {("ingest", "a2")} | COHORT
    assert _rows(workspace, "cohort.csv")["a2"]["kernel"] == "B70s"

    written = [path for path in workspace.folder.rglob("*") if path.is_file() and path.name != "cohort.tsv"]
    assert not list(workspace.results.rglob("*.dcm"))
    for path in written:
        assert "4711" not in path.name
        for private in (STUDY, "secret-4711", orthanc.host, "20050415", "DOE^JOHN"):
            assert private.encode() not in path.read_bytes(), path


def test_a_server_out_of_order_stops_the_run_and_the_next_one_goes_on(
    fresh: Callable[[], Workspace], tmp_path: Path
) -> None:
    workspace = fresh()
    workspace.config["cases_per_job"] = 5
    workspace.set("ingest", dicomweb={"retries": 0, "connections": 1})
    files = _as_dicom(Path(workspace.row("a1")["image"]), tmp_path / "scan", "B30f")
    images = {str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): file for file in files}
    answered = 0

    def dies_after_five(path: str, _before: int) -> Answer | None:
        nonlocal answered
        answered += "/instances/" in path
        return Answer(status=503) if answered > 5 else None

    def run() -> Pairs:
        return workspace.run(until={"ingest"})

    with serving(Server(STUDY, SERIES, {uid: file.read_bytes() for uid, file in images.items()})) as server:
        server.change = dies_after_five
        _one_scan_three_ways(workspace, server.url, tmp_path / "scan")
        workspace.row("b1")["image"] = f"{server.url}.9"
        process = workspace.run_command("--until", "ingest")
        assert process.returncode != 0
        said = process.stdout + process.stderr
        assert "the DICOMweb server is out of order: fetching an image: HTTP 503" in said
        assert "4711" not in said
        kept = list((workspace.results / "cases" / "a3" / ".fetched").rglob("*.dcm"))
        assert len(kept) == 5
        assert oct(os.stat(kept[0].parent).st_mode)[-3:] == "700"

        server.change = lambda _path, _before: None
        before = server.asked_for_images()
        assert ("ingest", "a3") in run()
        assert server.asked_for_images() - before == len(files) - 5
        record = (workspace.results / "cases" / "b1" / "ingest" / "record.json").read_text()
        assert "the DICOMweb server has no such series" in record
        assert not list(workspace.results.rglob("*.dcm"))

        # Added to the URL, anything after # asks for it anew; else nothing is asked for.
        before = server.asked_for_images()
        assert run() == set()
        assert server.asked_for_images() == before
        workspace.row("a3")["image"] += "#2"
        assert run() == {("ingest", "a3")}
        assert server.asked_for_images() - before == len(files)

        # Kept, they serve another setting, too.
        for spacing, expected in ((0.04, len(files)), (0.03, 0)):
            before = server.asked_for_images()
            workspace.set("ingest", dicomweb={"keep": True}, min_spacing=spacing)
            assert run() == {("ingest", case) for case in CASES}
            assert server.asked_for_images() - before == expected
        assert len(list((workspace.results / "cases" / "a3" / ".fetched").rglob("*.dcm"))) == len(files)
        workspace.set("ingest", dicomweb={"keep": False})
        run()
        assert not list(workspace.results.rglob("*.dcm"))
