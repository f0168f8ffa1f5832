"""The optional step: maps and their picture on top of a finished run, and nothing else computed."""

from harness import CASES, Workspace

from radloom.images import read_nifti

OWN = {("voxel_maps", case) for case in CASES} | {("report", "cohort")}


def test_maps_are_made_on_top_of_a_run(workspace: Workspace) -> None:
    before = workspace.tables()
    workspace.set("voxel_maps", features=["firstorder_Entropy"])
    assert workspace.run(whole=True) == OWN
    after = workspace.tables()
    # The checklist says whether there are maps, and the package has its hash.
    assert {name for name in after if after[name] != before.get(name)} == {"checklist.csv", "datapackage.json"}
    folder = workspace.results / "cases/a1/voxel_maps"
    names = ["ROI_original_firstorder_Entropy.nii.gz", "record.json", "voxel_maps.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    image = read_nifti(workspace.results / "cases/a1/calibrate/image.nii.gz")
    assert read_nifti(folder / names[0]).geometry == image.geometry
    report = workspace.results / "report.html"
    assert report.read_text().count("Voxel maps of case") == len(CASES)
    assert workspace.run(whole=True) == set()

    workspace.set("overlay", window=[-100, 200])
    overlays = {("overlay", case) for case in CASES}
    assert workspace.run(whole=True) == OWN | overlays, "the window is that of the picture, too"
    workspace.set("voxel_maps", features=[])
    assert workspace.run(whole=True) == {("report", "cohort")}
    assert "Voxel maps of case" not in report.read_text()
