"""How a series was acquired, from its headers: known elements, vendors' own ones, and nothing of the patient."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from dicom_files import ct_datasets, enhanced_dataset, phantom, write_series
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from radloom.acquisition import COLUMNS
from radloom.dicom import acquisition_elements
from radloom.dicom.acquisition import acquisition_of, scan_day
from radloom.dicom.series import find_series

pytestmark = pytest.mark.filterwarnings("ignore:The value length|Invalid value for VR:UserWarning")
SALT = b"s" * 32
TYPICAL = {
    "Manufacturer": "SIEMENS", "ManufacturerModelName": "SOMATOM Definition Edge", "SoftwareVersions": "syngo CT 2012B",
    "ConvolutionKernel": ["Br38f", "3"], "KVP": "120", "XRayTubeCurrent": 200, "Exposure": 153,
    "SliceThickness": "0.6", "SpiralPitchFactor": 0.8, "ContrastBolusAgent": "Omnipaque 350, Dr. Doe",
    "TableHeight": "-155.5", "GantryDetectorTilt": "0",
}  # fmt: skip


def _headers(slices: int = 3, **fields: Any) -> list[Dataset]:
    return ct_datasets(phantom((slices, 4, 4)), **{**TYPICAL, **fields})


def _told(headers: list[Dataset]) -> tuple[dict[str, Any], list[str]]:
    warnings: list[str] = []
    found = acquisition_of(headers, warnings)
    assert list(found) == list(COLUMNS)
    return found, warnings


def test_a_typical_series() -> None:
    found, warnings = _told(_headers())
    assert found == {
        "manufacturer": "Siemens", "scanner_model": "SOMATOM Definition Edge", "software": "syngo CT 2012B",
        "kernel": "Br38f", "reconstruction": "iterative 3", "kvp": 120.0, "tube_current": 200.0, "exposure": 153.0,
        "slice_thickness": 0.6, "pitch": 0.8, "contrast": "yes", "table_height": -155.5, "gantry_tilt": 0.0,
        "transfer_syntax": None,
    }  # fmt: skip
    assert warnings == []


def test_nothing_is_known_of_empty_headers() -> None:
    found, warnings = _told([Dataset(), Dataset()])
    assert set(found.values()) == {None}
    assert warnings == []
    assert set(acquisition_of([]).values()) == {None}


def test_numbers_that_differ_give_their_median_and_texts_mixed() -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.Exposure = (100, 120, 300)[k]
        ds.ConvolutionKernel = ("B30f", "B30f", "B70s")[k]

    found, warnings = _told(_headers(change=change))
    assert (found["exposure"], found["kernel"]) == (120.0, "mixed")
    assert warnings == ["kernel differs between slices"]


def test_numbers_that_cannot_be_are_left_out() -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.KVP = ("120", "0", "9999")[k]
        ds.add_new("ExposureInmAs", "FD", (float("nan"), 90.0, 110.0)[k])

    found, warnings = _told(_headers(change=change))
    assert (found["kvp"], found["exposure"]) == (120.0, 100.0)
    assert len(warnings) == 2
    assert all("1 of 3 places" in text for text in warnings)
    assert "9999" not in str(warnings)


@pytest.mark.parametrize(
    ("fields", "column", "expected"),
    [
        ({"Exposure": None, "ExposureInuAs": 52_500}, "exposure", 52.5),
        ({"XRayTubeCurrent": None, "XRayTubeCurrentInuA": 60_250}, "tube_current", 60.25),
        ({"SpiralPitchFactor": None, "TableFeedPerRotation": 18.75, "TotalCollimationWidth": 20.0}, "pitch", 0.938),
        ({"SpiralPitchFactor": None, "TableFeedPerRotation": 18.75, "TotalCollimationWidth": 0.0}, "pitch", None),
        ({"ConvolutionKernel": "STANDARD"}, "reconstruction", None),
        ({"ConvolutionKernel": ["A", "B"]}, "reconstruction", None),
        ({"Manufacturer": "GE", "ConvolutionKernel": ["STANDARD", "3"]}, "reconstruction", None),
        ({"ExposureInmAs": 0.0}, "exposure", 153.0),
        ({"ConvolutionKernel": "B30f", "ReconstructionAlgorithm": "FILTER_BACK_PROJ"}, "reconstruction", "FBP"),
        # What nobody entered and what was removed look alike: only a word that says so is a no.
        ({"ContrastBolusAgent": None}, "contrast", None),
        ({"ContrastBolusAgent": None, "PatientIdentityRemoved": "NO"}, "contrast", None),
        ({"ContrastBolusAgent": "NONE"}, "contrast", "no"),
        ({"ContrastBolusAgent": ""}, "contrast", None),
        ({"ContrastBolusAgent": "ANONYMIZED"}, "contrast", None),
        ({"ContrastBolusAgent": "n/a"}, "contrast", None),
        ({"ContrastBolusAgent": "-"}, "contrast", None),
        ({"ContrastBolusAgent": "APPLIED"}, "contrast", "yes"),
        ({"ContrastBolusAgent": "removed", "ContrastFlowRate": "3.5"}, "contrast", "yes"),
        ({"ContrastBolusAgent": None, "ContrastBolusTotalDose": "0"}, "contrast", None),
        ({"ContrastBolusAgent": "", "ContrastBolusVolume": "90"}, "contrast", "yes"),
        ({"Manufacturer": "GE MEDICAL SYSTEMS"}, "manufacturer", "GE"),
        ({"Manufacturer": "Imaging Sciences International"}, "manufacturer", "Imaging Sciences International"),
        ({"ConvolutionKernel": "LUNG", "SeriesDescription": "Lung"}, "kernel", "LUNG"),
        ({"ManufacturerModelName": "Edge 64", "StationName": "EDGE 64"}, "scanner_model", None),
        ({"ConvolutionKernel": "IMR1,Soft Tissue"}, "kernel", "IMR1 Soft Tissue"),
        ({"SoftwareVersions": ["VA1", "VB2"]}, "software", "VA1 VB2"),
    ],
)
def test_where_else_a_value_may_stand(fields: dict[str, Any], column: str, expected: object) -> None:
    assert _told(_headers(**fields))[0][column] == expected


@pytest.mark.parametrize(
    ("what", "value", "column", "expected"),
    [
        ("GE pitch", "1.375:1", "pitch", 1.375),
        ("GE pitch", "HIGH QUAL", "pitch", None),
        ("GE iterative", "SS50", "reconstruction", "iterative SS50"),
        ("GE iterative", "text by Dr. Doe", "reconstruction", None),
        ("Philips iterative", "4", "reconstruction", "iterative 4"),
    ],
)
def test_vendors_own_elements_wherever_their_block_lies(
    tmp_path: Path, what: str, value: str, column: str, expected: object
) -> None:
    group, creator, element = acquisition_elements.VENDORS[what]

    def change(_: int, ds: Dataset) -> None:
        ds.private_block(group, "SOMEBODY ELSE", create=True).add_new(element, "SH", "7")
        vr = "IS" if what == "Philips iterative" else "SH"
        ds.private_block(group, creator, create=True).add_new(element, vr, value)

    fields = {**TYPICAL, "ConvolutionKernel": "STANDARD", "SpiralPitchFactor": None}
    files = write_series(tmp_path, phantom((2, 4, 4)), change=change, **fields)
    (series,) = find_series(files).series
    found, _ = _told([header.dataset for header in series.headers])
    assert found[column] == expected


def test_headers_as_they_are_found_tell_what_whole_ones_tell(tmp_path: Path) -> None:
    files = write_series(tmp_path, phantom((3, 16, 16)), syntax=RLELossless, **TYPICAL)
    (series,) = find_series(files).series
    found = acquisition_of([h.dataset for h in series.headers], syntaxes={h.syntax for h in series.headers})
    assert found == {**acquisition_of(_headers()), "transfer_syntax": "RLE lossless"}


def test_a_multi_frame_image_has_them_in_its_functional_groups() -> None:
    def change(k: int, groups: Dataset) -> None:
        exposure, recon, details, table, acquired = (Dataset() for _ in range(5))
        exposure.ExposureInmAs, exposure.XRayTubeCurrentInmA = 100.0 + 10 * k, 250.0
        recon.ConvolutionKernel, recon.ReconstructionAlgorithm = "B30f", "ITERATIVE"
        details.KVP, table.SpiralPitchFactor = 100.0, 1.2
        acquired.TableHeight, acquired.GantryDetectorTilt = 150.0, -12.5
        agent = Dataset()
        agent.ContrastBolusAgentAdministered = "NO"
        groups.ContrastBolusUsageSequence = [agent]
        groups.CTExposureSequence, groups.CTReconstructionSequence = [exposure], [recon]
        groups.CTXRayDetailsSequence, groups.CTTableDynamicsSequence = [details], [table]
        groups.CTAcquisitionDetailsSequence = [acquired]

    enhanced = enhanced_dataset(phantom((3, 4, 4)), change_frame=change, ConvolutionKernel=None, KVP=None)
    found, warnings = _told([enhanced])
    assert (found["exposure"], found["tube_current"], found["kvp"]) == (110.0, 250.0, 100.0)
    assert (found["kernel"], found["reconstruction"], found["slice_thickness"]) == ("B30f", "iterative", 2.5)
    assert (found["pitch"], found["table_height"], found["gantry_tilt"]) == (1.2, 150.0, -12.5)
    assert found["contrast"] == "no"
    assert warnings == []


@pytest.mark.parametrize(
    "fields",
    [
        {"ConvolutionKernel": "DOE"},
        {"ConvolutionKernel": "kernel of John"},
        {"ConvolutionKernel": "v4711x", "PatientID": "4711X"},
        {"ConvolutionKernel": "St. Mary 2", "InstitutionName": "ST. MARY HOSPITAL"},
        {"ConvolutionKernel": "ACC99887", "AccessionNumber": "ACC99887"},
        {"ConvolutionKernel": "House", "ReferringPhysicianName": "HOUSE^GREGORY"},
        {"ConvolutionKernel": "CT Thorax", "StudyDescription": "ct thorax"},
        {"ConvolutionKernel": "20050415", "StudyDate": "20050415"},
        {"ConvolutionKernel": "1.2.840.113619.2.55"},
        {"ConvolutionKernel": "a text that nobody would call a kernel"},
        {"ConvolutionKernel": "Br\u00fcnn"},
    ],
)
def test_a_text_that_may_be_the_patients_is_left_out(fields: dict[str, str]) -> None:
    found, warnings = _told(_headers(**fields))
    assert found["kernel"] is None
    assert len(warnings) == 1
    assert fields["ConvolutionKernel"] not in warnings[0]
    assert found["scanner_model"] == "SOMATOM Definition Edge"


def test_one_slice_with_the_patients_name_is_enough_to_leave_a_text_out() -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.ConvolutionKernel = "DOE" if k == 2 else "B30f"

    found, warnings = _told(_headers(change=change))
    assert found["kernel"] is None
    assert "DOE" not in str(warnings)


@given(st.binary(max_size=24), st.sampled_from(sorted(acquisition_elements.KEYWORDS)))
def test_damaged_values_are_no_error_and_leave_nothing_odd(raw: bytes, keyword: str) -> None:
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(keyword) or 0)
    (header,) = _headers(1)
    header[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)
    for value in _told([header])[0].values():
        assert value is None or isinstance(value, float) or (len(value) <= 32 and value.isascii())


def test_days_of_a_patient_differ_as_the_dates_do_and_tell_nothing_else() -> None:
    def day(patient: str, salt: bytes = SALT, **dates: Any) -> int | None:
        return scan_day(_headers(1, **dates), salt, patient)

    first, later = day("p1", AcquisitionDate="20050415"), day("p1", AcquisitionDate="20060101")
    assert first is not None
    assert later is not None
    assert later - first == (datetime.date(2006, 1, 1) - datetime.date(2005, 4, 15)).days
    others = {day("p2", AcquisitionDate="20050415"), day("p1", b"t" * 32, AcquisitionDate="20050415")}
    assert len(others | {first}) == 3
    assert all(other and abs(other - first) > 100_000 for other in others)
    assert day("p1", StudyDate="2005.04.15", AcquisitionDate="") == first
    assert day("p1", AcquisitionDateTime="20050415101010.0", StudyDate="20040101") == first


@pytest.mark.parametrize("date", ["", "19000101", "20051399", "yesterday", "000000", None])
def test_no_day_without_a_date(date: str | None) -> None:
    assert scan_day(_headers(1, StudyDate=date), SALT, "p1") is None
    assert scan_day([], SALT, "p1") is None


def test_the_earliest_slice_counts() -> None:
    def change(k: int, ds: Dataset) -> None:
        ds.AcquisitionDate = ("20050416", "20050415", "")[k]

    one = scan_day(_headers(1, AcquisitionDate="20050415"), SALT, "p1")
    assert scan_day(_headers(change=change), SALT, "p1") == one


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("sts/dicom/STS_003/ct", {"manufacturer": "GE", "kernel": "STANDARD", "kvp": 120.0, "slice_thickness": 3.27}),
        ("sts/dicom/STS_019/ct", {"manufacturer": "GE", "kernel": "SOFT", "kvp": 140.0, "contrast": None}),
        ("segmentation/liver_ct_dicom", {"contrast": "yes", "pitch": 0.938, "kernel": "STANDARD"}),
        (
            "dicom_edge/jpeg2000_20_slices",
            {"manufacturer": "Siemens", "kernel": "Br38f", "reconstruction": "iterative 3", "exposure": 253.0},
        ),
        ("dicom_edge/variable_tilt_and_gaps", {"gantry_tilt": 18.5, "kernel": "STD+", "exposure": None}),
    ],
)
def test_real_series(shared_data: Path, folder: str, expected: dict[str, Any]) -> None:
    files = [path for path in sorted((shared_data / folder).rglob("*")) if path.is_file()]
    found, warnings = _told([dcmread(path, stop_before_pixels=True) for path in files])
    assert {name: found[name] for name in expected} == expected
    assert warnings == []
