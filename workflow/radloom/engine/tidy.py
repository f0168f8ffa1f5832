"""`keep: final`: remove the volumes of a chunk's cases once their features and pictures are there."""

from __future__ import annotations

import argparse
from pathlib import Path

from radloom.engine.files import read_json, write_json
from radloom.engine.locks import check_run, hold_case
from radloom.engine.records import Record
from radloom.engine.steps import VOLUME_STEPS


def tidy(results: Path, case_ids: list[str]) -> int:
    """Remove the volumes that ingest, resample, calibrate and segment wrote for these cases; return the bytes freed.

    The records stay, and so do the final ROI, the features and the picture.
    """
    freed = 0
    for case_id in case_ids:
        for step in VOLUME_STEPS:
            check_run(results)
            folder = results / "cases" / case_id / step
            record = Record.read(folder)
            if record is None or record.status != "ok":
                continue
            with hold_case(folder):
                # The record first: a volume that is missing without its word would count as damage.
                record.tidied = True
                record.write(folder)
                for volume in folder.glob("*.nii.gz"):
                    freed += volume.stat().st_size
                    volume.unlink()
    return freed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", type=Path, nargs="+", help="manifests of the steps that read the volumes last")
    parser.add_argument("--manifest", type=Path, required=True, help="what was tidied")
    args = parser.parse_args()
    results = args.manifest.parents[2]
    case_ids = [entry["case_id"] for entry in read_json(args.manifests[0])["cases"]]
    freed = tidy(results, case_ids)
    print(f"{freed} bytes freed")
    write_json(args.manifest, {"step": "tidy", "chunk": args.manifest.stem, "cases": case_ids})


if __name__ == "__main__":
    main()
