"""PyRadiomics as its users call it: `RadiomicsFeatureExtractor.execute` on images that SimpleITK read.

Serves `pyradiomics-bhklab` and `pyradiomics-cuda`, whose package is called `radiomics` too.
"""

import logging

import numpy as np
import SimpleITK as sitk
from radiomics import featureextractor, setVerbosity

setVerbosity(logging.CRITICAL)
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def read(image, mask):
    return sitk.ReadImage(image), sitk.ReadImage(mask)


def compute(data, classes):
    extractor = featureextractor.RadiomicsFeatureExtractor(binWidth=25)
    extractor.disableAllFeatures()
    for name in classes:
        extractor.enableFeatureClassByName(name)
    return extractor.execute(*data)


def numbers(raw):
    # MCC of an ROI with few grey levels comes as a complex number.
    return {name: float(np.real(value)) for name, value in raw.items() if name.startswith("original_")}
