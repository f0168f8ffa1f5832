"""Counting labels, and the names that ROIs may have."""

from pathlib import Path

import numpy as np
import pytest

from radloom.labels import ROI_NAME, count_labels, number_names, read_names, write_names


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_labels_are_counted(dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 9, (5, 6, 7)).astype(dtype)
    assert count_labels(array).tolist() == np.bincount(array.ravel()).tolist()


def test_a_volume_without_labels_has_background_alone() -> None:
    assert count_labels(np.zeros((2, 2, 2), np.uint16)).tolist() == [8]


def test_labels_of_a_view_are_counted() -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(np.uint8)
    view = array[1:, ::2, ::-1]
    assert count_labels(view).tolist() == np.bincount(view.ravel()).tolist()


@pytest.mark.parametrize(
    ("name", "good"), [("liver", True), ("T_2", True), ("2T", False), ("a b", False), ("a" * 33, False)]
)
def test_roi_names(name: str, good: bool) -> None:
    assert bool(ROI_NAME.fullmatch(name)) == good


def test_names_come_back_from_their_file_in_ascending_order(tmp_path: Path) -> None:
    write_names(tmp_path / "labels.json", {10: "node", 2: "tumour"})
    assert (tmp_path / "labels.json").read_text() == '{"2": "tumour", "10": "node"}\n'
    assert read_names(tmp_path / "labels.json") == {2: "tumour", 10: "node"}


def test_labels_without_names_are_numbered() -> None:
    assert number_names(np.array([[[0, 3], [1, 3]]], np.uint8)) == {1: "label_1", 3: "label_3"}
