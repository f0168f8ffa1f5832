"""The elements that `radloom.dicom.acquisition` looks at: what a reader of headers has to keep for it."""

from __future__ import annotations

# Who the patient is, and who treats them: none of their words may be a value of the acquisition table.
IDENTIFIERS = (
    "PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName",
    "PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers", "IssuerOfPatientID", "PatientComments",
    "AdditionalPatientHistory", "Occupation", "MilitaryRank", "ResponsiblePerson", "AccessionNumber", "StudyID",
    "AdmissionID", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord",
    "RequestingPhysician", "RequestingService", "ScheduledPerformingPhysicianName", "CurrentPatientLocation",
)  # fmt: skip
# What people write, and what names one object: as a whole no value of the table.
DESCRIPTIONS = (
    "StudyDescription", "SeriesDescription", "ProtocolName", "RequestedProcedureDescription", "StationName",
    "PerformedProcedureStepDescription", "PerformedProcedureStepID", "ImageComments", "StudyComments",
    "DeviceSerialNumber", "DerivationDescription", "AcquisitionProtocolDescription", "RequestedProcedureID",
    "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate",
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip
# In this order: the first that is there counts. Of the scan itself before those of the study.
DATES = ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "StudyDate")
_TECHNICAL = (
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel", "ReconstructionAlgorithm", "KVP",
    "XRayTubeCurrent", "XRayTubeCurrentInuA", "XRayTubeCurrentInmA", "Exposure", "ExposureInuAs", "ExposureInmAs",
    "SliceThickness", "SpiralPitchFactor", "TableFeedPerRotation", "TotalCollimationWidth", "TableHeight",
    "GantryDetectorTilt", "ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusVolume",
    "ContrastBolusTotalDose", "ContrastFlowRate",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
KEYWORDS = tuple(dict.fromkeys((*_TECHNICAL, *IDENTIFIERS, *DESCRIPTIONS, *DATES)))

# Vendors' own elements by what they tell: group, creator, and the element within the creator's block.
VENDORS = {
    "GE pitch": (0x0043, "GEMS_PARM_01", 0x27),
    "GE iterative": (0x0053, "GEHC_CT_ADVAPP_001", 0x40),
    "Philips iterative": (0x01F7, "ELSCINT1", 0x9B),
}
# Their tags with those of the creators, wherever in the group the blocks lie.
VENDOR_TAGS = tuple(
    (group << 16) | element
    for group, _, offset in VENDORS.values()
    for block in range(0x10, 0x20)
    for element in (block, (block << 8) | offset)
)
