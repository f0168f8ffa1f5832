"""What parameter files and nets tell the report."""

from pathlib import Path

from radloom.resource_facts import resource_facts

ROOT = Path(__file__).parents[2]


def test_a_parameter_file_tells_its_settings_and_no_path(tmp_path: Path) -> None:
    path = tmp_path / "secret_name.yaml"
    path.write_text("setting: {binWidth: 10}\nimageType: {LoG: {sigma: [2.0]}}\nfeatureClass: {glcm: [Contrast]}\n")
    found = resource_facts({"params.fine": {"path": str(path), "sha256": "ab"}})
    assert found == {
        "params.fine": {
            "sha256": "ab",
            "setting": {"binWidth": 10},
            "image_types": {"LoG": {"sigma": [2.0]}},
            "features": {"glcm": ["Contrast"]},
        }
    }


def test_a_net_tells_what_it_is_and_what_it_was_trained_on() -> None:
    path = ROOT / "resources" / "models" / "demo_unet"
    found = resource_facts({"model": {"path": str(path), "sha256": "cd"}})["model"]
    assert (found["kind"], found["dimensions"]) == ("unet", 2)
    assert found["name"] == "demo_unet"
    assert found["classes"] == {"1": "organ", "2": "tumour"}
    assert found["trained_on"] == "CT phantoms of radloom.phantoms, no patients"
    assert len(found["weights_sha256"]) == 64
    assert found["licence"] == "MIT"
    assert "demo_unet/" not in str(found)


def test_a_file_that_cannot_be_read_gives_its_hash_alone(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("setting: {binWidth: -1}")
    (tmp_path / "model.json").write_text("[1]")
    resources = {
        "params": {"path": str(tmp_path / "bad.yaml"), "sha256": "1"},
        "params.gone": {"path": str(tmp_path / "gone.yaml"), "sha256": "2"},
        "model": {"path": str(tmp_path), "sha256": "3"},
    }
    assert resource_facts(resources) == {
        "params": {"sha256": "1"},
        "params.gone": {"sha256": "2"},
        "model": {"sha256": "3"},
    }
