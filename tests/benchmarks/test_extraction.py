"""The bench of extraction: its table of names, its watch over other implementations' processes, its differences."""

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from benchmarks.extraction import ALL, CLASSES, Runs, difference, tiny_case  # noqa: E402
from benchmarks.peers import process  # noqa: E402
from benchmarks.peers.names import to_pyradiomics  # noqa: E402
from benchmarks.peers.process import Failed, Limits, Process  # noqa: E402
from benchmarks.peers.setup import PEERS  # noqa: E402

PEER = """
import time
def read(image, mask):
    return image
def compute(data, classes):
    if data == "sleep":
        time.sleep(60)
    while data == "toil":
        pass
    if data == "hoard":
        kept = bytearray(b"x" * (400 << 20))
        time.sleep(60)
    if data == "fail":
        raise ValueError("no such feature")
    print("said on standard output")
    return {name: 1.0 for name in classes}
def numbers(raw):
    return raw
"""


GENEROUS = Limits(cpu_s=60, wall_s=300, memory_mb=1000)


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A made-up implementation beside the real runner."""
    (tmp_path / "runner.py").write_text((REPO / "benchmarks" / "peers" / "runner.py").read_text())
    (tmp_path / "with_peer.py").write_text(PEER)
    monkeypatch.setattr(process, "HERE", tmp_path)
    with Process(Path(sys.executable), "with_peer", GENEROUS) as running:
        yield running


def ask(running, what):
    return running.ask(Path(what), Path("mask"), ["glcm"])


def test_a_repeat_is_answered_with_features_and_costs(peer):
    first, second = ask(peer, "fine"), ask(peer, "fine")
    assert first["features"] == second["features"] == {"glcm": 1.0}
    assert second["imported_mb"] == first["imported_mb"] > 5
    assert len(second["compute_s"]) == 2


@pytest.mark.parametrize(
    ("what", "limits", "reason"),
    [
        ("toil", replace(GENEROUS, cpu_s=1), "more than 1 CPU seconds"),
        ("sleep", replace(GENEROUS, wall_s=1), "no answer within 1 s"),
        ("hoard", replace(GENEROUS, memory_mb=200), "GB of memory"),
        ("fail", GENEROUS, "no such feature"),
    ],
)
def test_what_does_not_answer_is_ended_with_a_reason(peer, what, limits, reason):
    ask(peer, "fine")
    peer.limits = limits
    with pytest.raises(Failed, match=reason):
        ask(peer, what)
    assert peer.process.poll() is not None


def test_radloom_and_pyradiomics_are_run_alike(tmp_path):
    case = tiny_case(tmp_path)
    features = {}
    for module in ("with_radloom", "with_radloom_stock", "with_pyradiomics"):
        with Process(Path(sys.executable), module, GENEROUS) as running:
            features[module] = running.ask(*case, CLASSES[ALL])["features"]
    reference = to_pyradiomics("same", features.pop("with_pyradiomics"))
    assert len(reference) == 107
    for theirs in features.values():
        assert max(difference(reference[name], value) for name, value in theirs.items()) < 1e-9
        assert theirs.keys() == reference.keys()


def test_the_names_are_all_of_pyradiomics_and_unique():
    from radloom.codebook import DEFINITIONS

    with open(REPO / "benchmarks" / "peers" / "names.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        class_, name = row["pyradiomics"].split("_")
        definition = DEFINITIONS[class_][name]
        if definition.ibsi_tag:
            assert row["mirp"] == definition.ibsi_tag
    for naming in {"pyradiomics", *(peer.naming for peer in PEERS if peer.naming != "same")}:
        used = [row[naming] for row in rows if row[naming]]
        assert len(used) == len(set(used)) > 95


@pytest.mark.parametrize(
    ("naming", "column"),
    [
        ("same", "original_glcm_Idmn"),
        ("fastrad", "glcm:idmn"),
        ("mirp", "cm_inv_diff_mom_norm_d1_3d_avg_fbsp_w25.0"),
        ("nyxus", "3GLCM_IDMN_AVE"),
        ("pictologics", "normalised_inverse_difference_moment_1QCO"),
    ],
)
def test_each_way_of_naming_is_read(naming, column):
    assert to_pyradiomics(naming, {column: 0.9, "something_else": 1.0}) == {"original_glcm_Idmn": 0.9}


def test_difference_is_relative_and_minds_what_is_not_finite():
    assert difference(2.0, 1.0) == 0.5
    assert difference(0.0, 1e-14) == 0.0
    assert difference(math.nan, math.nan) == 0.0
    assert difference(math.nan, 1.0) == math.inf


def test_figures_are_medians_over_rounds():
    runs = Runs(
        {n: {"read_s": [1, 0], "compute_s": [wall, cpu]} for n, (wall, cpu) in enumerate([(3, 1), (9, 2), (4, 6)])}
    )
    assert runs.median("compute_s") == 4
    assert runs.median("read_s", "compute_s") == 5
    assert runs.median("compute_s", clock=1) == 2
