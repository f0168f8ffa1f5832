"""Transfer syntaxes: each gives the very values of an uncompressed copy, and damage is told."""

import base64
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import ct_datasets, enhanced_dataset, phantom, write_datasets, write_file, write_series
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import HTJ2K as HTJ2K_LOSSY
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from radloom.dicom.ct import read_ct
from radloom.dicom.series import choose_series, find_series
from radloom.errors import CaseError
from radloom.images import Array

NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
PACKED = [JPEG2000Lossless, JPEGLSLossless, RLELossless]


def smooth(shape: tuple[int, int, int] = (3, 64, 70)) -> Array:
    """HU that compress as anatomy does, with air and noise."""
    hu = np.cumsum(phantom(shape) // 400, axis=2)
    return np.clip(hu, -1000, 1500).astype(np.int16)


def values(folder: Path) -> Array:
    """The only series of a folder."""
    return read_ct(choose_series(find_series(sorted(folder.iterdir())))).volume.array


@pytest.mark.parametrize("syntax", NATIVE + PACKED, ids=lambda uid: uid.name)
@pytest.mark.parametrize(("signed", "bits"), [(True, 16), (False, 16), (False, 12), (True, 12)])
def test_each_syntax_gives_the_values_that_were_written(tmp_path: Path, syntax: str, signed: bool, bits: int) -> None:
    hu = smooth()
    write_series(tmp_path, hu, syntax=syntax, signed=signed, bits_stored=bits)
    np.testing.assert_array_equal(values(tmp_path), hu)


def test_a_series_of_several_syntaxes_gives_the_values_that_were_written(tmp_path: Path) -> None:
    """An uncompressed slice is read into the memory of the one before it, if that is its own."""
    order = [*NATIVE, *NATIVE, *PACKED, *NATIVE[:2], *PACKED[::-1], *NATIVE[1::-1]]
    hu = smooth((len(order), 32, 32))
    for k, (ds, syntax) in enumerate(zip(ct_datasets(hu), order, strict=True)):
        write_file(tmp_path / f"{k:02}.dcm", ds, syntax=syntax)
    np.testing.assert_array_equal(values(tmp_path), hu)


@pytest.mark.parametrize("signed", [True, False])
def test_jpeg_lossless_gives_the_values_that_were_written(tmp_path: Path, signed: bool) -> None:
    """Compressed by ITK's writer, whose frames are put into our files."""
    hu = smooth()
    datasets = ct_datasets(hu, signed=signed)
    for ds in datasets:
        words = np.frombuffer(ds.PixelData, "<i2" if signed else "<u2").reshape(ds.Rows, ds.Columns)
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(tmp_path / "packed.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.GetImageFromArray(words))
        packed = dcmread(tmp_path / "packed.dcm")
        assert packed.file_meta.TransferSyntaxUID == JPEGLosslessSV1
        ds.PixelData = packed.PixelData
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    (tmp_path / "packed.dcm").unlink()
    write_datasets(tmp_path, datasets, syntax=JPEGLosslessSV1)
    np.testing.assert_array_equal(values(tmp_path), hu)


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="dcmtk's dcmcjpeg is not installed")
@pytest.mark.parametrize("option", ["+el", "+e1"])
@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_lossless_of_dcmtk(tmp_path: Path, option: str, bits: int) -> None:
    hu = smooth()
    for path in write_series(tmp_path / "plain", hu, signed=False, bits_stored=bits):
        (tmp_path / "packed").mkdir(exist_ok=True)
        subprocess.run(["dcmcjpeg", option, path, tmp_path / "packed" / path.name], check=True)
    np.testing.assert_array_equal(values(tmp_path / "packed"), hu)


def test_jpeg_baseline_is_decoded_as_libjpeg_does_and_told_to_be_lossy(tmp_path: Path) -> None:
    """8 bits with loss: within 1 of pillow's decoder, whose inverse transform may round otherwise."""
    from PIL import Image

    stored = (smooth((3, 64, 72)) // 16 + 70).astype(np.uint8)
    datasets = ct_datasets(stored.astype(int) * 16 - 1024, slope=16, intercept=-1024, bits_stored=8, signed=False)
    expected = []
    for ds, plane in zip(datasets, stored, strict=True):
        file = io.BytesIO()
        Image.fromarray(plane).save(file, "JPEG", quality=90)
        expected.append(np.asarray(Image.open(file)).astype(int) * 16 - 1024)
        ds.PixelData = encapsulate([file.getvalue()])
        ds["PixelData"].is_undefined_length = True
    write_datasets(tmp_path, datasets, syntax=JPEGBaseline8Bit)
    found = read_ct(choose_series(find_series(sorted(tmp_path.iterdir()))))
    assert np.abs(found.volume.array - np.array(expected)).max() <= 16
    assert "compressed with loss" in found.warnings[0]


def test_a_jpeg_2000_code_stream_tells_itself_that_it_lost(tmp_path: Path) -> None:
    """Where the header says nothing of it. OpenJPEG's lossy streams have the irreversible wavelet."""
    from openjpeg.utils import encode_array

    hu = smooth()
    write_series(tmp_path / "lossless", hu, syntax=JPEG2000Lossless)
    assert read_ct(choose_series(find_series((tmp_path / "lossless").iterdir()))).warnings == []
    datasets = ct_datasets(hu)
    for ds in datasets[1:]:
        words = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)
        packed = encode_array(words, bits_stored=16, photometric_interpretation=2, compression_ratios=[4])
        ds.PixelData = encapsulate([bytes(packed)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    write_datasets(tmp_path / "lossy", datasets[1:], syntax=JPEG2000)
    found = read_ct(choose_series(find_series((tmp_path / "lossy").iterdir())))
    assert found.warnings == ["2 slices were compressed with loss: their values are not those that were measured"]


# Code streams of OpenJPH (reversible, progression RPCL): HU as signed words, and HU + 4096 as unsigned ones.
HTJ2K = {
    True: (
        r"|4;u>04YEK0000O0000K00000000000000O0000K000000000000EBy0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&"
        r"kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001LjVE)lfVEaivovq0KfnezyK1!01|-"
        r"x07rBHwgLxq0L=jhbO68r6TkoxKmZbeNQ~?Pi*x|L5;Fkk00(pczyKDU00BGz0WjW;chd_fD_g|;04R&hU;%i!0ELVIk=}Ix@cSj+bO68"
        r"r7fS#DS3m$2VAfh|t+h5R1WbC)Ip>^n-"
        r"~<~I%Vk+Ep}`UQ_c~MzatI{QyZ~Uy6b_A*^a2g>!M?ZvF~%4{^bp_4zPA9t054g909x<>3cy4LK@bE%5Cj84UIRf81VIo4K@b3h)>KthR"
        r"aFHFG*CL5rfHg{X`0Z$fEP7ZR8&+{R8&+{gbL)n`~gzeTJ_el^me+}uC<p+K+qu2F~9(5BC)d@F}?vHFoZw|2Elv%|4aiA8S{W=bOHj`e"
        r"gOXm^#4o%&g-tanE?OU"
    ),
    False: (
        r"|4;u>04YEK0000O0000K00000000000000O0000K0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&"
        r"kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001L;wN*lfVEbi{}LgbO68r62JfwzyK0}{QyUF0JZ`LbO6l(2Xp|y029Cf"
        r"5<mbFfJlt&0*iD2zY;S5=l}<F0KfnioB#nl00A)Gjd#-vC@WjU`~WD6%wPd{xd4TX0FmBx0Py=I-"
        r"gE%K02fOD09QZ&6=2p{Ypu05ECft?&N=6tbKnFU63b;-E}_8@`u93i3~~r0(7XU($rKKamGlA)@xi{h05QfGLG%#c$-"
        r"cJ$zyL2<fB;(X01CiF20;)6K@bE3LS6$w5ClOG1VIo0gw|A5RaI353N%nUo2F@+rfHhcz<?JuR#a3}R8&+{RD=rTz5D@E*IM<~vh;Sk*R"
        r"HjfN<h#c&@sROXd<z*8!^5CATWeL2nNA>{r^k@5E=7;XLJGr*M0#12lW3;0M6^Kx|sm~*#"
    ),
}


def high_throughput(folder: Path, signed: bool, syntax: str, keep: int | None = None) -> Array:
    """Write a series of two such slices, or of their first `keep` bytes; returns the HU of one."""
    y, x = np.mgrid[:20, :24]
    hu = (x - 9) ** 2 * (y - 7) - 1000
    datasets = ct_datasets(np.stack([hu, hu]), signed=signed, intercept=0 if signed else -4096)
    for ds in datasets:
        ds.PixelData = encapsulate([base64.b85decode(HTJ2K[signed])[:keep]])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    write_datasets(folder, datasets, syntax=syntax)
    return hu


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K_LOSSY], ids=lambda uid: uid.name)
def test_high_throughput_jpeg_2000_gives_the_values_that_were_written(
    tmp_path: Path, syntax: str, signed: bool
) -> None:
    """And a frame that is cut short is refused."""
    hu = high_throughput(tmp_path / "whole", signed, syntax)
    np.testing.assert_array_equal(values(tmp_path / "whole"), [hu, hu])
    for keep in (200, 430):
        high_throughput(tmp_path / str(keep), signed, syntax, keep)
        with pytest.raises(CaseError, match="truncated or damaged"):
            values(tmp_path / str(keep))


def test_several_fragments_a_frame_are_joined(tmp_path: Path) -> None:
    hu = smooth()
    single, multi = tmp_path / "single", tmp_path / "multi"
    for path in write_series(single, hu, syntax=JPEG2000Lossless):
        ds = dcmread(path)
        ds.PixelData = encapsulate(list(generate_frames(ds.PixelData, number_of_frames=1)), 3)
        ds.save_as(path)
    np.testing.assert_array_equal(values(single), hu)
    multi.mkdir()
    path = write_file(multi / "a.dcm", enhanced_dataset(hu), syntax=JPEG2000Lossless)
    ds = dcmread(path)
    ds.PixelData = encapsulate(list(generate_frames(ds.PixelData, number_of_frames=3)), 2)
    ds.save_as(path)
    np.testing.assert_array_equal(values(multi), hu)


@pytest.mark.parametrize("syntax", [*PACKED, DeflatedExplicitVRLittleEndian], ids=lambda uid: uid.name)
@pytest.mark.parametrize("keep", [0.3, 0.9, 0.995])
def test_truncated_frames_are_refused(tmp_path: Path, syntax: str, keep: float) -> None:
    path = write_series(tmp_path, smooth(), syntax=syntax)[1]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CaseError, match="damaged"):
        values(tmp_path)


@pytest.mark.parametrize("syntax", PACKED, ids=lambda uid: uid.name)
def test_a_frame_of_another_size_than_its_header_is_refused(tmp_path: Path, syntax: str) -> None:
    """A few bytes can claim gigabytes."""
    large = ct_datasets(smooth())
    write_datasets(tmp_path, large, syntax=syntax)
    for path in tmp_path.iterdir():
        ds = dcmread(path)
        ds.Rows = 32
        ds.save_as(path)
    if syntax == RLELossless:  # has no size of its own; what is too much is padding
        assert values(tmp_path).shape == (3, 32, 70)
        return
    with pytest.raises(CaseError, match="truncated or damaged"):
        values(tmp_path)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.4.102", "MPEG-4 AVC"), ("1.2.3.4711.1", "of a private kind")],
)  # fmt: skip
def test_another_syntax_is_refused_by_its_name(tmp_path: Path, syntax: str, name: str) -> None:
    datasets = ct_datasets(smooth())
    for ds in datasets:
        ds.PixelData = encapsulate([b"\0" * 10])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    write_datasets(tmp_path, datasets, syntax=syntax)
    with pytest.raises(CaseError, match=f"the transfer syntax {name}") as caught:
        values(tmp_path)
    assert "4711" not in str(caught.value)
