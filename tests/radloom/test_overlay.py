"""The overlay picture: orientation, proportion, outlines, and the same bytes every time."""

import struct
from pathlib import Path

import numpy as np
import pytest

from radloom.errors import CaseError, CohortError
from radloom.images import Geometry, Volume
from radloom.overlay import COLOURS, GAP, PANEL, draw_overlay, write_overlay

WINDOW = (-160.0, 240.0)


def volume(array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    size = (array.shape[2], array.shape[1], array.shape[0])
    return Volume(np.ascontiguousarray(array), Geometry(size, spacing, (0.0, 0.0, 0.0)))


def blank(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.full(shape, -1000, dtype=np.int16), np.zeros(shape, dtype=np.uint8)


def drawn(image: np.ndarray, roi: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    labels = {int(number): f"roi{number}" for number in np.unique(roi) if number}
    picture = draw_overlay(volume(image, spacing), volume(roi, spacing), labels, WINDOW)
    return np.asarray(picture.convert("RGB")).astype(int)


def where(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns (n, 2) of the pixels of a colour."""
    return np.argwhere((pixels == colour).all(axis=2))


def test_every_panel_shows_the_patient_the_right_way_round() -> None:
    image, roi = blank((80, 80, 80))
    roi[35:45, 35:45, 35:45] = 1
    # White blocks off the middle, where no letter is written: towards the head, the back and the left of the patient.
    image[38:42, 38:42, 60:70] = 300
    image[38:42, 60:70, 38:42] = 300
    image[60:70, 38:42, 38:42] = 300
    white = where(drawn(image, roi)[:PANEL], (255, 255, 255)) / PANEL
    side = (PANEL + GAP) / PANEL

    def centre(panel: int, row: float, column: float) -> int:
        inside = np.abs(white - [row, column + panel * side]).max(axis=1) < 0.06
        return int(inside.sum())

    at, away, middle = 65 / 80, 15 / 80, 0.5
    assert centre(0, middle, at) > 50, "axial: the patient's left is on the right"
    assert centre(0, at, middle) > 50, "axial: the back is at the bottom"
    assert centre(1, middle, at) > 50, "coronal: the patient's left is on the right"
    assert centre(1, away, middle) > 50, "coronal: the head is at the top"
    assert centre(2, middle, at) > 50, "sagittal: the back is on the right"
    assert centre(2, away, middle) > 50, "sagittal: the head is at the top"
    for panel, row, column in [
        (0, middle, away),
        (0, away, middle),
        (1, middle, away),
        (1, at, middle),
        (2, at, middle),
    ]:
        assert centre(panel, row, column) == 0


def test_proportions_are_those_of_the_patient() -> None:
    image, roi = blank((20, 60, 100))
    roi[8:12, 20:40, 40:60] = 1
    pixels = drawn(image, roi, (1.0, 1.5, 4.0))  # 100 x 90 x 80 mm
    scale = PANEL / 100
    widths = [round(100 * scale), round(100 * scale), round(90 * scale)]
    assert pixels.shape[1] == sum(widths) + 2 * GAP
    outline = where(pixels[: round(90 * scale)], COLOURS[0])
    coronal = outline[(outline[:, 1] >= widths[0] + GAP) & (outline[:, 1] < sum(widths[:2]) + GAP)]
    height, width = coronal.max(axis=0) - coronal.min(axis=0) - 1
    assert width == pytest.approx(20 * scale, abs=1.5)
    assert height == pytest.approx(16 * scale, abs=5)  # a slice is 9.6 pixels: its edge is somewhere in between


def test_planes_go_through_the_largest_area() -> None:
    image, roi = blank((30, 40, 50))
    roi[5:25, 18:22, 24:26] = 1
    roi[20, 10:30, 15:35] = 1
    image[20] = 240
    pixels = drawn(image, roi)
    # The axial panel shows slice 20, which alone is white; the coronal and sagittal ones show a white line.
    assert (pixels[100, 5:PANEL] == 255).all(axis=1).mean() > 0.5
    assert len(where(pixels[:, PANEL + GAP :], (255, 255, 255))) > 0
    assert (pixels[150, PANEL + GAP :] == 255).all(axis=1).mean() < 0.1


def test_each_roi_has_its_outline_and_its_name() -> None:
    image, roi = blank((60, 60, 60))
    roi[20:40, 15:30, 20:40] = 2
    roi[20:40, 30:45, 20:40] = 7
    pixels = drawn(image, roi)
    scale = PANEL / 60
    axial = pixels[:PANEL, :PANEL]
    for colour, first, last in ((COLOURS[0], 15, 30), (COLOURS[1], 30, 45)):
        outline = where(axial, colour)
        low, high = outline.min(axis=0), outline.max(axis=0)
        assert low == pytest.approx([first * scale, 20 * scale], abs=2)
        assert high == pytest.approx([last * scale, 40 * scale], abs=2)
        # A closed line of one pixel: about the perimeter, nothing inside.
        assert len(outline) == pytest.approx(2 * (15 + 20) * scale, rel=0.05)
        assert len(where(pixels[PANEL:], colour)) > 10  # the name


def test_a_roi_smaller_than_a_pixel_is_still_seen() -> None:
    image, roi = blank((3, 512, 512))
    roi[1, 300, 200] = 1
    pixels = drawn(image, roi, (0.98, 0.98, 5.0))
    outline = where(pixels[:PANEL, :PANEL], COLOURS[0])
    assert len(outline) >= 4
    assert outline.mean(axis=0) == pytest.approx(np.array([300, 200]) * PANEL / 512, abs=1.5)


def test_a_long_scan_is_shortened_around_the_roi() -> None:
    image, roi = blank((600, 50, 80))
    roi[560:590, 20:30, 30:50] = 1
    pixels = drawn(image, roi, (1.0, 1.0, 3.0))
    # The ROI is 90 mm high, and about 20 mm above and below it stay: 43 slices, more than the scan is wide.
    assert pixels.shape[1] == round(80 * PANEL / 129) * 2 + round(50 * PANEL / 129) + 2 * GAP
    assert len(where(pixels[:PANEL, round(80 * PANEL / 129) + GAP :], COLOURS[0])) > 100


def test_a_case_without_roi_shows_the_middle_planes() -> None:
    image, roi = blank((20, 20, 20))
    image[10] = 300
    pixels = drawn(image, roi)
    assert pixels.shape[0] == PANEL
    assert (pixels[20, 20:PANEL] == 255).all()


def test_more_rois_than_colours_and_names_that_need_two_lines() -> None:
    image, roi = blank((30, 30, 30))
    for number in range(1, 10):
        roi[10:20, 10:20, 2 + 3 * number : 4 + 3 * number] = number
    labels = {number: f"a_rather_long_name_of_roi_{number}" for number in range(1, 10)}
    picture = draw_overlay(volume(image), volume(roi), labels, WINDOW)
    assert picture.height > PANEL + 2 * 16
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert all(len(where(pixels[PANEL:], colour)) > 50 for colour in COLOURS)


def test_the_same_picture_gives_the_same_bytes_and_no_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(40, 60, (40, 512, 512)).astype(np.float32)
    roi = np.zeros(image.shape, dtype=np.uint8)
    roi[10:30, 200:300, 220:330] = 1
    for name in ("a.png", "b.png"):
        grid = (0.8, 0.8, 4.0)
        write_overlay(tmp_path / name, draw_overlay(volume(image, grid), volume(roi, grid), {1: "tumour"}, WINDOW))
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert len(content) < 60_000
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append(content[at + 4 : at + 8])
        at += 12 + length
    assert set(chunks) == {b"IHDR", b"PLTE", b"IDAT", b"IEND"}


def test_what_cannot_be_drawn_is_said() -> None:
    image, roi = blank((8, 8, 8))
    with pytest.raises(CohortError, match=r"black \(240 HU\) must be below white \(-160 HU\)"):
        draw_overlay(volume(image), volume(roi), {1: "tumour"}, (240, -160))
    with pytest.raises(CaseError, match="one grid"):
        draw_overlay(volume(image), volume(roi[1:]), {1: "tumour"}, WINDOW)


def test_the_planes_go_through_the_smallest_roi() -> None:
    image, roi = blank((60, 60, 60))
    roi[5:55, 5:45, 5:45] = 1
    roi[48:52, 38:42, 10:14] = 2
    found = where(drawn(image, roi), COLOURS[1])
    # Its outline is in all three panels, though the large ROI is widest elsewhere.
    side = PANEL + GAP
    assert {int(column) // side for _, column in found} == {0, 1, 2}
