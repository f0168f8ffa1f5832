"""Write a model folder's net as an ONNX file, and compare the two in onnxruntime.

By hand: export_onnx.py resources/models/NAME --out NAME.onnx [--size 256 256]

Needs pip install -e '.[onnx]'. The file holds the net alone, from images (batch, channels, [z,] y, x) to logits, and
model.json as metadata; what is done to images before and to logits after is said there. By default batch and size are
free; sizes are multiples of what the net halves by.
"""

import argparse
from pathlib import Path

from radloom.errors import CohortError

TOLERANCE = 1e-4
"""Largest difference of logits: float32 sums in another order; logits are of the order of 10 to 100."""


def main() -> None:
    """Read the command line, export and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.onnx", help="file to write")
    parser.add_argument("--size", type=int, nargs="+", metavar="N", help="fix [z] y x, for nets that need it")
    args = parser.parse_args()
    from radloom.nets.onnx_export import export_onnx, largest_difference

    try:
        export_onnx(args.model, args.out, args.size)
        difference = largest_difference(args.model, args.out)
    except CohortError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{args.out.name}: largest difference of logits {difference:.2g}")
    if not difference <= TOLERANCE:
        raise SystemExit(f"error: the difference is above {TOLERANCE}; don't use the file")


if __name__ == "__main__":
    main()
