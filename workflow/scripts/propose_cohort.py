"""Propose a cohort sheet from a tree of DICOM: a row for every CT series that could be a case, and why others are none.

By hand: propose_cohort.py DICOM_ROOT --out cohort.tsv [--roi 'gtv*'] [--key key.tsv]

Only headers are read. The sheet has pseudonyms (P0001, C01) and no value of the patients' beside the paths and series
UIDs that the workflow needs. Look it over, above all its centres and patients, before you use it.
"""

import argparse
import os
import sys
from pathlib import Path

from radloom.errors import CohortError


def main() -> None:
    """Read the command line, look at the tree, write the sheet and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "root", type=Path, metavar="DICOM_ROOT", help="folder with DICOM files at any depth, of any name"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="cohort.tsv", help="sheet to write, if there is none"
    )
    parser.add_argument("--force", action="store_true", help="replace the sheet")
    parser.add_argument(
        "--centre",
        default="institution",
        metavar="institution|folder|NAME",
        help="centres are institutions of the headers (default), first folders below the root, or one of this name",
    )
    parser.add_argument(
        "--roi", metavar="PATTERN", help="ROI or segment, where a file has several: as the column mask_roi"
    )
    parser.add_argument(
        "--choose",
        choices=["all", "most_slices", "thinnest"],
        default="all",
        help="which of a patient's series: all (default), the one with most slices, or the thinnest",
    )
    parser.add_argument("--min-slices", type=int, default=10, metavar="N", help="least slices of a series (default 10)")
    parser.add_argument(
        "--key",
        type=Path,
        metavar="key.tsv",
        help="write who the pseudonyms stand for, for the owner's eyes only; pseudonyms that it has already stay",
    )
    parser.add_argument(
        "--left-out",
        type=Path,
        metavar="left_out.tsv",
        help="write what was left out, with paths, for the owner's eyes only",
    )
    parser.add_argument(
        "--tilt", choices=["shear", "refuse"], default="shear", help="ingest: tilt of the configuration"
    )
    parser.add_argument("--allow-gap", type=int, default=0, metavar="N", help="ingest: allow_gap of the configuration")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (default 2)")
    args = parser.parse_args()
    try:
        _run(args)
    except CohortError as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        # Python puts the path into the error.
        raise SystemExit(f"error: {error.strerror or 'a file or folder could not be read or written'}") from None


def _run(args: argparse.Namespace) -> None:
    from radloom.dicom.ct import CtSettings
    from radloom.dicom.proposal import (
        LEFT_OUT_COLUMNS,
        SHEET_COLUMNS,
        key_text,
        propose,
        read_key,
        sheet_text,
        write_private,
    )
    from radloom.dicom.tree import read_tree

    if not args.root.is_dir():
        raise CohortError("DICOM_ROOT is no folder")
    if args.out.exists() and not args.force:
        raise CohortError("the sheet is there already: name another one, or replace it by --force")
    if args.out.suffix.lower() == ".csv":
        raise CohortError("the sheet is tab-separated: name it .tsv")
    key = read_key(args.key) if args.key is not None and args.key.exists() else {}
    root = args.root.resolve()
    tree = read_tree(
        root, CtSettings(args.tilt, args.allow_gap), args.workers, _progress if sys.stderr.isatty() else None
    )
    found = propose(
        tree, root, args.out, centre=args.centre, roi=args.roi, choose=args.choose, min_slices=args.min_slices, key=key
    )
    patients, centres = ({row[column] for row in found.rows} for column in ("patient_id", "centre"))
    rate = tree.files / max(tree.seconds, 1e-9)
    print(f"read:      {tree.files} files in {tree.seconds:.1f} s ({rate:.0f} a second)")
    print(f"found:     {len(tree.scans)} CT series, {len(tree.drawings)} RTSTRUCT and SEG")
    print(f"proposed:  {len(found.rows)} cases of {len(patients)} patients in {len(centres)} centres, ", end="")
    print(f"{sum(bool(row['mask']) for row in found.rows)} with a mask")
    for title, counts in (("left out", found.counts), ("not looked at", tree.passed_over)):
        if counts:
            print(f"{title}:")
        for reason, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
            print(f"  {count:6d}  {reason}")
    for note in found.notes:
        print(f"note: {note}")
    if args.left_out is not None:
        rows = [dict(zip(LEFT_OUT_COLUMNS, one, strict=True)) for one in found.left_out]
        write_private(args.left_out, sheet_text(rows, LEFT_OUT_COLUMNS))
    if not found.rows:
        raise CohortError("no CT series could be a case, so no sheet was written")
    if args.key is not None:
        write_private(args.key, key_text(found.key))
    write_private(args.out, sheet_text(found.rows, SHEET_COLUMNS))
    print(
        f"wrote the sheet; {'the key of its pseudonyms lies apart' if args.key else 'who is who was not kept (--key)'}"
    )


def _progress(done: int, files: int) -> None:
    print(f"\r{done} of {files} files", end="" if done < files else "\r\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
