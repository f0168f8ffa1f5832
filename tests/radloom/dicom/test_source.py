"""What of a case's DICOM tells who and which it is: by the project's salt, or not at all."""

import json
from pathlib import Path
from typing import Any

from dicom_files import phantom, write_series

from radloom.dicom.source import read_image
from radloom.source_cells import Selection


def facts(folder: Path, patient: str, salt: bytes) -> dict[str, Any]:
    write_series(folder, phantom(), PatientID=patient)
    return read_image(tuple(sorted(folder.iterdir())), Selection(salt=salt), {}).facts


def test_a_patient_is_known_by_a_salted_hash_alone(tmp_path: Path) -> None:
    salt = b"s" * 32
    one, same, other = (
        facts(tmp_path / name, patient, salt) for name, patient in (("a", "KLARA7"), ("b", "Klara7"), ("c", "OTTO9"))
    )
    assert one["patient_hash"] == same["patient_hash"] != other["patient_hash"]
    assert one["series"] != same["series"]
    assert facts(tmp_path / "d", "KLARA7", b"t" * 32)["patient_hash"] != one["patient_hash"]
    assert "klara7" not in json.dumps([one, same, other]).casefold()
    assert "patient_hash" not in facts(tmp_path / "e", "KLARA7", b"")
    assert "patient_hash" not in facts(tmp_path / "f", "", salt)
