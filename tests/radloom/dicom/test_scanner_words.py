"""Names of kernels and scanners are told from what a person may have typed in their place."""

from radloom.dicom.scanner_words import is_kernel, is_scanner

# As they stand in headers of public collections (NLST, TCIA, OSIC) and in manuals.
KERNELS = """
B08f B10s B19f B20f B25f B26f B29s B30 B30f B30s B31f B35f B36d B39f B40f B41s B44d B45f B46f B50f B60f B65f B70f B70s
B75h B80f B90s Bf37f Bl54d Bl56f Bl57d Bl57s Bl60f Bl64f BI57f Br32d Br36s Br38f Br40d Br44f Br49d Br51f Br54d Br58f
Br59f Br60f Br64d Br69d Bv36d Bv40f Bv36 Br40d/3 C20f D10f D30f H10s H20f H22s H23s H30f H31s H32s H37s H40s H45s H50s
H60f H60s H70h H90s Hc40f Hr38h Hr40f Hr60f Hr64h Hr68f I26f I30f I31f I40f I41s I44f I50f I70f I80s J30f J30s J40f
Q33f Qr36f Qr40d Qr40 Qr44u S80s Sa36f T20f T20s Tr20f Tx60f U70u U90u Xy40u3 32 10 11H 00 42 STANDARD STAND STND STD
STD+ Standard SOFT Soft DETAIL Detail Detail2 LUNG Lung BONE Bone2 BONEPLUS BONEPLUS2 EDGE CHST CHEST ULTRA Veo
EXPERIMENTAL FC01 FC02 FC03 FC04 FC07 FC08 FC08-H FC10 FC12 FC13 FC13-H FC14 FC15 FC17 FC18 FC18-H FC19 FC21 FC23 FC24
FC26 FC30 FC31 FC35 FC50 FC51 FC52 FC53 FC55 FC56 FC57 FC58 FC59 FC64 FC65 FC68 FC69 FC80 FC81 FC82 FC85 FC86 FL01
FL03 FL04 A B C D E F L CA CB CC CD EA EB EC EC(-1) SA SB UA UB UC XA XB XCA YA YB YC YC(0) YD YE B_SOFT_B B_SOFT_C
B_SHARP_C B_VSHARP_C B_VSOFT_B H_SOFT_A H_SHARP_D F20 F40 AICE FIRST AIDR
""".split()  # noqa: SIM905 - a list would take a line a word
KERNELS += ["Y-Detail (YB)", "XRes Standard (XCB)", "Lung Enhanced (L)", "Brain LCD", "I-STD", "Std31"]
KERNELS += ["HD LUNG", "BODY FILTER/STANDARD", "BODY FILTER / STANDARD", "HD STANDARD", "IMR1 Soft Tissue", "LUNG EDGE"]
SCANNERS = [
    *("SOMATOM Definition Edge", "SOMATOM Definition AS+", "SOMATOM go.Top", "SOMATOM X.cite", "NAEOTOM Alpha"),
    *("Sensation 64", "Sensation Cardiac 64", "Emotion 16 (2010)", "Biograph40_mCT 4R", "Biograph 64", "Volume Zoom"),
    *("LightSpeed VCT", "LightSpeed16", "LightSpeed QX/i", "Discovery CT750 HD", "Discovery STE", "Revolution EVO"),
    *("Optima CT660", "BrightSpeed S", "HiSpeed CT/i", "HiSpeed Dual", "LightSpeed Ultra", "LightSpeed Plus"),
    *("Brilliance 64", "iCT 256", "IQon - Spectral CT", "Mx8000 IDT 16", "Brilliance Big Bore", "GEMINI TF TOF 64"),
    *("Ingenuity Core 128", "Incisive CT", "PQ5000", "Aquilion", "Aquilion ONE", "Aquilion PRIME", "Aquilion/LB"),
    *("TSX-301A", "Asteion", "SCENARIA", "Supria", "ECLOS", "uCT 760", "uCT 960+", "NeuViz 128", "NeuViz Prime"),
    *(
        "LightSpeedverrel",
        "LightSpeedApps308I.2_H3.1M5",
        "06MW03.5",
        "3.40",
        "VG80B",
        "dm09_hl2sp1.23",
        "syngo CT 2012B",
    ),
    *("LightSpeedApps14.13_2.8.2L_H2.1M4", "syngo CT VA48A", "07MW18.4", "gmp_vct.42", "sles_hde.92", "4.1.6", "VB42B"),
    *(
        "Brivo CT385",
        "Aquilion CXL",
        "HiSpeed QX/i",
        "LX/i",
        "i-CAT",
        "3D Accuitomo",
        "SOMATOM AR.STAR",
        "uMI Panorama",
    ),
    *("Hitachi Medical Corporation", "SinoVision", "Dabi Atlante", "pinehd.34", "iPatient 4.1.10", "VA0 COEV"),
    *("V4.86ER003", "2.6.2.60101", "R001.2.2.61.0", "qin.3", "SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "NeuroLogica"),
]
PERSONAL = [
    *(
        "Smith",
        "SMITH",
        "Doe",
        "DOE^JANE",
        "Jane Doe",
        "J. Smith",
        "Dr. Mueller",
        "MUELLER",
        "Anna",
        "Lee",
        "Kim",
        "JON",
    ),
    *("Hospital St. Mary", "University", "Schmidt 3", "Garcia-Lopez", "O'Brien", "Nguyen T", "Ivanova_1957", "Maria2"),
    *("19570412", "1957-04-12", "12.04.1957", "1957.04.12", "MRN1234567", "4711000", "ACC99887766", "P0001234"),
    *("1.2.840.113619.2.55", "kernel of John", "see report", "patient moved", "repeat for Dr Who", "test Petra"),
    *("Anonymized", "", "-", "REMOVED"),
]


def test_kernels_are_taken() -> None:
    assert [text for text in KERNELS if not is_kernel(text)] == []


def test_scanners_and_their_software_are_taken() -> None:
    assert [text for text in SCANNERS if not is_scanner(text)] == []


def test_what_a_person_may_have_typed_is_neither() -> None:
    short = ["1957", "0412", "12.04.57", "JD", "Al Bo", "SOFT1957"]
    assert [text for text in [*PERSONAL, *short] if is_kernel(text)] == []
    assert [text for text in PERSONAL if is_scanner(text)] == []
