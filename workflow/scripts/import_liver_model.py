"""Turn the liver or the lesion net of PyPI's package pyliverlesionseg into a model folder, without Keras or TensorFlow.

By hand: import_liver_model.py WHEEL_OR_FOLDER --out resources/models/liver
         import_liver_model.py WHEEL_OR_FOLDER --net lesion --out resources/models/liver_lesion

The wheel (Apache-2.0, 27 MB) is had without installing it:
    pip download --no-deps --only-binary :all: --python-version 3.6 pyliverlesionseg==0.3
Reading it needs h5py: pip install h5py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from radloom.nets.liver import SOURCES, import_model


def main() -> None:
    """Read the command line and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="WHEEL_OR_FOLDER", help="the wheel, or where it was unpacked")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--net", choices=list(SOURCES), default="liver", help="default: liver; lesion has both")
    args = parser.parse_args()
    try:
        description = import_model(args.source, args.out, args.net)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{args.out}: {', '.join(description.classes.values())} at {description.spacing} mm")


if __name__ == "__main__":
    main()
