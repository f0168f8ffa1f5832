"""Damaged DICOM: series of every kind that the tests can write, with random damage to bytes, elements and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from dicom_files import ct_datasets, enhanced_dataset, phantom, write_datasets, write_file
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLSLossless,
)
_SHAPE = (4, 64, 66)
_WORDS = (
    *(b"", b"0", b"-1", b"nan", b"inf", b"1e308", b"-1e308", b"1e-308", b"65535", b"4294967295", b"99999999999999"),
    *(b"1\\2", b"\\\\\\", b"x" * 70, b"DOE^JOHN", b"\0\0", b"\xff\xff", b"\xff" * 8, b"\x1b$B", b"0.0000001"),
)


def write_damaged(folder: Path, seed: int) -> str:
    """Write a small series with damage that `seed` decides; returns what it is, in words."""
    rng = np.random.default_rng(seed)
    hu = phantom(_SHAPE, int(rng.integers(3)))
    syntax = SYNTAXES[rng.integers(len(SYNTAXES))]
    signed = bool(rng.integers(2))
    enhanced = rng.random() < 0.25 and syntax != ExplicitVRBigEndian
    kind: dict[str, Any] = {
        "signed": signed,
        "bits_stored": int(rng.choice([12, 16])),
        "intercept": -1024 * (not signed),
    }
    if rng.random() < 0.3:
        kind["PixelPaddingValue"] = -2000 if signed else 63536
    if rng.random() < 0.2:
        kind["step"] = (0, 0.8, 2.5)
    folder.mkdir(parents=True, exist_ok=True)
    if enhanced:
        paths = [write_file(folder / "a.dcm", enhanced_dataset(hu, **kind), syntax=syntax)]
    else:
        paths = write_datasets(folder, ct_datasets(hu, **kind), syntax=syntax)
    told = [f"{'enhanced' if enhanced else 'single'} {syntax.name}"]
    for _ in range(int(rng.integers(1, 4))):
        damage = _DAMAGE[rng.integers(len(_DAMAGE))]
        chosen = paths if rng.random() < 0.3 else [paths[rng.integers(len(paths))]]
        state = rng.bit_generator.state
        for path in chosen:
            rng.bit_generator.state = state  # the same damage to all of them
            try:
                damage(path, rng)
            except Exception:  # a second damage to what is no DICOM any more
                continue
        told.append(f"{damage.__name__[1:]} {len(chosen)}")
    return ", ".join(told)


def _flip_bytes(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    end = len(data) if rng.random() < 0.5 else min(len(data), 1500)
    for at in rng.integers(0, end, int(rng.choice([1, 4, 30]))):
        data[at] = rng.integers(256)
    path.write_bytes(data)


def _truncate(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng.random())])


def _cut_out(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    path.write_bytes(data[:at] + data[at + length :])


def _put_in(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    at = int(rng.integers(len(data)))
    path.write_bytes(data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:])


def _extreme_length(path: Path, rng: np.random.Generator) -> None:
    """A length, or whatever lies there, becomes huge or undefined."""
    data = bytearray(path.read_bytes())
    at = int(rng.integers(132, min(len(data) - 4, 1600)))
    data[at : at + 4] = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xfe\xff\0\0"][rng.integers(4)]
    path.write_bytes(data)


def _delete_element(path: Path, rng: np.random.Generator) -> None:
    ds = dcmread(path)
    place = _some_dataset(ds, rng)
    del place[sorted(place.keys())[rng.integers(len(place))]]
    _save(ds, path)


def _other_value(path: Path, rng: np.random.Generator) -> None:
    ds = dcmread(path)
    place = _some_dataset(ds, rng)
    tag = sorted(place.keys())[rng.integers(len(place))]
    element = place[tag]
    if element.VR == "SQ":
        place[tag] = DataElement(tag, "SQ", [Dataset()] * int(rng.integers(3)))
    elif element.VR in ("US", "SS", "US or SS"):
        place[tag] = DataElement(tag, "US", int(rng.choice([0, 1, 2, 7, 8, 12, 13, 32, 255, 4096, 60000, 65535])))
    elif element.VR in ("OW", "OB"):
        place[tag] = DataElement(tag, element.VR, rng.bytes(int(rng.choice([0, 2, 1000, 8448]))))
    else:
        place[tag] = DataElement(tag, "UN", _WORDS[rng.integers(len(_WORDS))])
    _save(ds, path)


def _other_text(path: Path, rng: np.random.Generator) -> None:
    """A value is replaced in the file's bytes, of the same length and in the same VR."""
    data = path.read_bytes()
    ds = dcmread(path)
    texts = [element for element in ds if element.VR in ("DS", "IS", "CS", "UI") and element.value]
    element = texts[rng.integers(len(texts))]
    value = element.value
    old = ("\\".join(map(str, value)) if isinstance(value, list) or element.VM > 1 else str(value)).encode()
    new = _WORDS[rng.integers(len(_WORDS))][: len(old)].ljust(len(old))
    path.write_bytes(data.replace(old, new, 1))


def _duplicate(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        data[-int(rng.integers(2, 900))] ^= 1
    path.with_name(path.stem + "_copy.dcm").write_bytes(data)


def _other_syntax(path: Path, rng: np.random.Generator) -> None:
    """The file claims another transfer syntax than it has."""
    data = path.read_bytes()
    claimed = str((*SYNTAXES, JPEGLosslessSV1, "1.2.840.10008.1.2.4.50")[rng.integers(len(SYNTAXES) + 2)]).encode()
    ds = dcmread(path)
    old = str(ds.file_meta.TransferSyntaxUID).encode()
    written = [
        b"\x02\x00\x10\x00UI" + (len(uid) + 1 & ~1).to_bytes(2, "little") + uid + b"\0" * (len(uid) % 2)
        for uid in (old, claimed)
    ]
    path.write_bytes(data.replace(*written))


def _some_dataset(ds: Dataset, rng: np.random.Generator) -> Dataset:
    """The dataset itself, or an item of one of its sequences, at any depth."""
    while True:
        inner = [item for element in ds if element.VR == "SQ" for item in element.value if len(item)]
        if not inner or rng.random() < 0.4:
            return ds
        ds = inner[rng.integers(len(inner))]


def _save(ds: Dataset, path: Path) -> None:
    ds.save_as(path, enforce_file_format=False)


_DAMAGE = (_flip_bytes, _flip_bytes, _truncate, _cut_out, _put_in, _extreme_length, _delete_element, _other_value,
           _other_value, _other_text, _duplicate, _other_syntax)  # fmt: skip
