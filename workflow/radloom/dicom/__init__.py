"""DICOM: series, contours, segmentations. Its modules load pydicom: import them only where DICOM is read."""
