"""flash-radiomics on its CPU path, on images that SimpleITK read; it always writes an HDF5 file, which is timed too."""

import os
import tempfile

import SimpleITK as sitk
from flash_radiomics import RadiomicsFeatureExtractor

sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def read(image, mask):
    return sitk.ReadImage(image), sitk.ReadImage(mask)


def compute(data, classes):
    config = {
        "setting": {"binWidth": 25.0, "label": 1},
        "imageType": {"Original": {}},
        "scalarFeatureClass": {name: [] for name in classes},
        "spatialFeatureClass": None,
    }
    extractor = RadiomicsFeatureExtractor(config, backend="cpu", num_threads=1)
    with tempfile.TemporaryDirectory() as folder:
        return extractor.execute(*data, label=1, output_hdf5_path=os.path.join(folder, "features.h5"))


def numbers(raw):
    return {name: float(value) for name, value in raw.items() if name.startswith("original_")}
