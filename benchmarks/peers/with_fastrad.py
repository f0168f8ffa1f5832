"""fastrad on the CPU, in memory as its `load_and_align` reads and crops."""

import SimpleITK as sitk
import torch
from fastrad import FeatureExtractor, FeatureSettings, load_and_align
from loguru import logger

torch.set_num_threads(1)
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
logger.remove()


def read(image, mask):
    return load_and_align(image, mask)


def compute(data, classes):
    settings = FeatureSettings(feature_classes=classes, bin_width=25.0, device="cpu")
    return FeatureExtractor(settings).extract(*data)


def numbers(raw):
    return raw
