"""A stand-in for an outside segmenter: `stand_in_segmenter.py BEHAVIOUR IMAGE LABELS`.

`good` labels what is above 0 HU with 3 and, of that, what is above 500 HU with 9; the other behaviours differ in the
way that their names say. It knows nothing of Radloom: it reads and writes files.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(behaviour: str, image: Path, labels: Path) -> None:
    """Do what `behaviour` says."""
    if behaviour == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ["STAND_IN_CHILD"]).write_text(str(child.pid))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("waiting", flush=True)
        time.sleep(600)
    import numpy as np
    import SimpleITK as sitk

    read = sitk.ReadImage(str(image))
    array = sitk.GetArrayFromImage(read)
    result = (array > 0).astype(np.uint8) * 3
    result[array > 500] = 9
    found = sitk.GetImageFromArray(result)
    found.CopyInformation(read)
    print(f"reading {image} for '{Path.home()}/with a space/x'", flush=True)
    match behaviour:
        case "good":
            pass
        case "appends":
            labels = labels.with_name(labels.name + ".nii.gz")
        case "folder":
            labels.mkdir()
            labels = labels / "segmentation.nrrd"
        case "many":
            for name in ("liver", "spleen"):
                sitk.WriteImage(found, str(labels.with_name(f"{name}.nii.gz")))
            return
        case "flipped":
            found = sitk.DICOMOrient(found, "RAS")
        case "float":
            found = sitk.Cast(found, sitk.sitkFloat32)
        case "fractions":
            found = sitk.Cast(found, sitk.sitkFloat32) * 0.5
        case "negative":
            found = sitk.Cast(found, sitk.sitkInt16) - 1
        case "unknown":
            found = sitk.Cast(found == 3, sitk.sitkUInt8) * 77
        case "empty":
            found = found * 0
        case "smaller":
            found = found[1:]
        case "enormous":
            found = sitk.Expand(found, [2, 2, 2], sitk.sitkNearestNeighbor)
        case "shifted":
            found.SetOrigin([value + 5 for value in found.GetOrigin()])
        case "other_spacing":
            found.SetSpacing([value * 1.5 for value in found.GetSpacing()])
        case "garbage":
            labels.write_bytes(b"\x1f\x8bthis is no image" * 100)
            return
        case "truncated":
            sitk.WriteImage(found, str(labels))
            labels.write_bytes(labels.read_bytes()[:-20])
            return
        case "nothing":
            return
        case "fails":
            print("\x1b[31mRuntimeError: no weights\x1b[0m", file=sys.stderr)
            sys.exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "waits_with_bone":
            while (result == 9).any() and Path(os.environ["STAND_IN_WAITS"]).exists():
                time.sleep(0.1)
        case "talks":
            block = "x" * 99 + "\n"
            for _ in range(1000):
                print(block * 500, end="")
            print("done")
        case "leaves_child":
            subprocess.Popen([sys.executable, "-c", "while True: print('still here', flush=True)"])
        case _:
            sys.exit(f"unknown behaviour {behaviour}")
    sitk.WriteImage(found, str(labels))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
