"""What every column of every table means: class, image type, IBSI tag and code, unit, formula, and a short name.

Short names are legal in Stata, SPSS and R: at most 32 characters, letters, digits and underscores, a letter
first, no reserved word, and no two that differ in capitals only.

IBSI tags are those of the reference values of IBSI 1 (https://doi.org/10.1148/radiol.2020191145) without the
suffix for the way of aggregation (`_3D_avg`: PyRadiomics' default), which follows from the parameter file. A
tag says which definition the feature follows; where PyRadiomics' number differs by convention, the meaning
says so. The code is that of the same definition in IBSI's reference manual (`radloom.ibsi_codes`). The formula of
every number is PyRadiomics' own, whether IBSI has the feature or not.

Units are those of an image in HU that is not normalised (`normalize: true` of a parameter file makes numbers of it
that have no unit).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from radloom.extractions import extraction_of
from radloom.ibsi_codes import IBSI_CODES
from radloom.model_codebook import MODEL_COLUMNS
from radloom.quality_figures import FIGURES as QUALITY

MAX_LENGTH = 32

HU = "HU"
HU2 = "HU^2"
ONE = "1"
MM = "mm"
MM2 = "mm^2"
MM3 = "mm^3"
HU2_MM3 = "HU^2 mm^3"


@dataclass(frozen=True)
class FeatureInfo:
    """What is known of a column: empty text where nothing is."""

    feature_class: str = ""
    feature: str = ""
    image_type: str = ""
    ibsi_tag: str = ""
    unit: str = ""
    meaning: str = ""
    ibsi_code: str = ""
    formula: str = ""


@dataclass(frozen=True)
class Definition:
    """A feature of PyRadiomics: IBSI tag, unit on the original image in HU, short name, meaning."""

    ibsi_tag: str
    unit: str
    short: str
    meaning: str


_FIRST_ORDER = {
    "10Percentile": Definition("stat_p10", HU, "p10", "Value below which 10 % of the voxels lie."),
    "90Percentile": Definition("stat_p90", HU, "p90", "Value below which 90 % of the voxels lie."),
    "Energy": Definition(
        "stat_energy",
        HU2,
        "energy",
        "Sum of the squared values (after adding voxelArrayShift); grows with the number of voxels.",
    ),
    "Entropy": Definition(
        "ih_entropy",
        "bit",
        "entropy",
        "Shannon entropy of the histogram of the binned values: how unpredictable they are.",
    ),
    "InterquartileRange": Definition("stat_iqr", HU, "iqr", "Distance between the 25th and the 75th percentile."),
    "Kurtosis": Definition(
        "stat_kurt",
        ONE,
        "kurtosis",
        "Weight of the tails of the distribution; 3 for a normal one, or 0 with `extract.ibsi: true`, as IBSI has it.",
    ),
    "Maximum": Definition("stat_max", HU, "max", "Largest value."),
    "MeanAbsoluteDeviation": Definition("stat_mad", HU, "mad", "Mean distance of the values from their mean."),
    "Mean": Definition("stat_mean", HU, "mean", "Mean value."),
    "Median": Definition("stat_median", HU, "median", "Median value."),
    "Minimum": Definition("stat_min", HU, "min", "Smallest value."),
    "Range": Definition("stat_range", HU, "range", "Largest minus smallest value."),
    "RobustMeanAbsoluteDeviation": Definition(
        "stat_rmad", HU, "rmad", "Mean absolute deviation of the values between the 10th and the 90th percentile."
    ),
    "RootMeanSquared": Definition(
        "stat_rms", HU, "rms", "Square root of the mean squared value (after adding voxelArrayShift)."
    ),
    "Skewness": Definition(
        "stat_skew", ONE, "skewness", "Asymmetry of the distribution; positive with a tail to high values."
    ),
    "StandardDeviation": Definition("", HU, "sd", "Standard deviation of the values (divisor n)."),
    "TotalEnergy": Definition("", HU2_MM3, "total_energy", "Energy multiplied by the volume of a voxel."),
    "Uniformity": Definition(
        "ih_uniformity",
        ONE,
        "uniformity",
        "Sum of the squared frequencies of the binned values; 1 where all fall into one bin.",
    ),
    "Variance": Definition(
        "stat_var", HU2, "variance", "Mean squared distance of the values from their mean (divisor n)."
    ),
}

_SHAPE = {
    "Compactness1": Definition(
        "morph_comp_1", ONE, "compactness1", "Volume against area; largest for a sphere, 0.053."
    ),
    "Compactness2": Definition(
        "morph_comp_2", ONE, "compactness2", "Squared volume against cubed area; 1 for a sphere."
    ),
    "Elongation": Definition(
        "morph_pca_elongation", ONE, "elongation", "Second longest over longest principal axis; 1 where they are equal."
    ),
    "Flatness": Definition(
        "morph_pca_flatness", ONE, "flatness", "Shortest over longest principal axis; 0 for a plane."
    ),
    "LeastAxisLength": Definition(
        "morph_pca_least_axis",
        MM,
        "axis_least",
        "4 x square root of the smallest eigenvalue of the covariance of the voxel positions (divisor n, with "
        "`extract.ibsi: true` n - 1); "
        "for a solid ellipsoid 89 % of its shortest axis.",
    ),
    "MajorAxisLength": Definition(
        "morph_pca_maj_axis",
        MM,
        "axis_major",
        "4 x square root of the largest eigenvalue of the covariance of the voxel positions (divisor n, with "
        "`extract.ibsi: true` n - 1); "
        "for a solid ellipsoid 89 % of its longest axis.",
    ),
    "Maximum2DDiameterColumn": Definition(
        "", MM, "diam2d_column", "Largest distance of two surface points in a coronal plane (row and slice axes)."
    ),
    "Maximum2DDiameterRow": Definition(
        "", MM, "diam2d_row", "Largest distance of two surface points in a sagittal plane (column and slice axes)."
    ),
    "Maximum2DDiameterSlice": Definition(
        "", MM, "diam2d_slice", "Largest distance of two surface points in an axial plane."
    ),
    "Maximum3DDiameter": Definition("morph_diam", MM, "diam3d", "Largest distance of two surface points."),
    "MeshVolume": Definition("morph_volume", MM3, "volume_mesh", "Volume inside the triangle mesh of the surface."),
    "MinorAxisLength": Definition(
        "morph_pca_min_axis",
        MM,
        "axis_minor",
        "4 x square root of the second eigenvalue of the covariance of the voxel positions (divisor n, with "
        "`extract.ibsi: true` n - 1); "
        "for a solid ellipsoid 89 % of its middle axis.",
    ),
    "SphericalDisproportion": Definition(
        "morph_sph_dispr",
        ONE,
        "sph_disproportion",
        "Area over the area of a sphere of the same volume; 1 for a sphere.",
    ),
    "Sphericity": Definition(
        "morph_sphericity",
        ONE,
        "sphericity",
        "Area of a sphere of the same volume over the ROI's area; 1 for a sphere.",
    ),
    "SurfaceArea": Definition("morph_area_mesh", MM2, "area", "Area of the triangle mesh of the surface."),
    "SurfaceVolumeRatio": Definition("morph_av", "mm^-1", "area_per_volume", "Surface area over mesh volume."),
    "VoxelVolume": Definition(
        "morph_vol_approx", MM3, "volume_voxel", "Number of voxels multiplied by the volume of a voxel."
    ),
}

_SHAPE_2D = {
    "Elongation": Definition(
        "", ONE, "elongation", "Shorter over longer principal axis of the slice; 1 where they are equal."
    ),
    "MajorAxisLength": Definition("", MM, "axis_major", "Longer axis of the ellipse with the slice's second moments."),
    "MaximumDiameter": Definition("", MM, "diam", "Largest distance of two points of the outline."),
    "MeshSurface": Definition("", MM2, "area_mesh", "Area inside the outline's polygon."),
    "MinorAxisLength": Definition("", MM, "axis_minor", "Shorter axis of the ellipse with the slice's second moments."),
    "Perimeter": Definition("", MM, "perimeter", "Length of the outline."),
    "PerimeterSurfaceRatio": Definition("", "mm^-1", "perimeter_per_area", "Perimeter over area."),
    "PixelSurface": Definition("", MM2, "area_pixel", "Number of pixels multiplied by the area of a pixel."),
    "SphericalDisproportion": Definition(
        "", ONE, "sph_disproportion", "Perimeter over that of a circle of the same area; 1 for a circle."
    ),
    "Sphericity": Definition(
        "", ONE, "sphericity", "Perimeter of a circle of the same area over the outline's; 1 for a circle."
    ),
}

_GLCM = {
    "Autocorrelation": Definition(
        "cm_auto_corr",
        ONE,
        "autocorrelation",
        "Mean product of the grey levels of neighbours: high for coarse, bright texture.",
    ),
    "ClusterProminence": Definition(
        "cm_clust_prom",
        ONE,
        "cluster_prominence",
        "Fourth moment of the neighbours' sum: peaks and tails around its mean.",
    ),
    "ClusterShade": Definition(
        "cm_clust_shade", ONE, "cluster_shade", "Third moment of the neighbours' sum: its asymmetry around the mean."
    ),
    "ClusterTendency": Definition(
        "cm_clust_tend", ONE, "cluster_tendency", "Second moment of the neighbours' sum: groups of similar grey levels."
    ),
    "Contrast": Definition("cm_contrast", ONE, "contrast", "Mean squared difference of the grey levels of neighbours."),
    "Correlation": Definition(
        "cm_corr", ONE, "correlation", "Linear correlation of the grey levels of neighbours, from -1 to 1."
    ),
    "DifferenceAverage": Definition(
        "cm_diff_avg", ONE, "diff_average", "Mean absolute difference of the grey levels of neighbours."
    ),
    "DifferenceEntropy": Definition(
        "cm_diff_entr", "bit", "diff_entropy", "Shannon entropy of the absolute differences of neighbours."
    ),
    "DifferenceVariance": Definition(
        "cm_diff_var", ONE, "diff_variance", "Variance of the absolute differences of neighbours."
    ),
    "Dissimilarity": Definition("cm_dissimilarity", ONE, "dissimilarity", "Equal to DifferenceAverage."),
    "Homogeneity1": Definition("cm_inv_diff", ONE, "homogeneity1", "Equal to Id."),
    "Homogeneity2": Definition("cm_inv_diff_mom", ONE, "homogeneity2", "Equal to Idm."),
    "Id": Definition(
        "cm_inv_diff", ONE, "id", "Inverse difference: 1 where neighbours are equal, less the more they differ."
    ),
    "Idm": Definition(
        "cm_inv_diff_mom", ONE, "idm", "Inverse difference moment: as inverse difference, by the squared difference."
    ),
    "Idmn": Definition(
        "cm_inv_diff_mom_norm",
        ONE,
        "idmn",
        "Inverse difference moment, differences relative to the number of grey levels.",
    ),
    "Idn": Definition(
        "cm_inv_diff_norm", ONE, "idn", "Inverse difference, differences relative to the number of grey levels."
    ),
    "Imc1": Definition(
        "cm_info_corr1",
        ONE,
        "imc1",
        "First measure of mutual information of neighbours; 0 for none, negative otherwise.",
    ),
    "Imc2": Definition(
        "cm_info_corr2", ONE, "imc2", "Second measure of mutual information of neighbours; 0 for none, near 1 for much."
    ),
    "InverseVariance": Definition(
        "cm_inv_var", ONE, "inverse_variance", "Mean inverse squared difference of neighbours that differ."
    ),
    "JointAverage": Definition(
        "cm_joint_avg", ONE, "joint_average", "Mean grey level of the voxels that have neighbours."
    ),
    "JointEnergy": Definition(
        "cm_energy",
        ONE,
        "joint_energy",
        "Sum of squared pair frequencies: high where few pairs of grey levels prevail.",
    ),
    "JointEntropy": Definition("cm_joint_entr", "bit", "joint_entropy", "Shannon entropy of the pairs of grey levels."),
    "MCC": Definition(
        "",
        ONE,
        "mcc",
        "Maximal correlation coefficient of neighbours over all recodings of the grey levels, from 0 to 1.",
    ),
    "MaximumProbability": Definition("cm_joint_max", ONE, "max_probability", "Frequency of the most frequent pair."),
    "SumAverage": Definition("cm_sum_avg", ONE, "sum_average", "Mean sum of the grey levels of neighbours."),
    "SumEntropy": Definition("cm_sum_entr", "bit", "sum_entropy", "Shannon entropy of the sums of neighbours."),
    "SumSquares": Definition(
        "cm_joint_var", ONE, "sum_squares", "Variance of the grey levels of voxels that have neighbours."
    ),
    "SumVariance": Definition("cm_sum_var", ONE, "sum_variance", "Equal to ClusterTendency."),
}

_GLRLM = {
    "GrayLevelNonUniformity": Definition(
        "rlm_glnu", ONE, "gln", "How unevenly the runs spread over the grey levels; grows with their number."
    ),
    "GrayLevelNonUniformityNormalized": Definition(
        "rlm_glnu_norm", ONE, "glnn", "How unevenly the runs spread over the grey levels, whatever their number."
    ),
    "GrayLevelVariance": Definition("rlm_gl_var", ONE, "glv", "Variance of the runs' grey levels."),
    "HighGrayLevelRunEmphasis": Definition("rlm_hgre", ONE, "hglre", "High where runs have high grey levels."),
    "LongRunEmphasis": Definition(
        "rlm_lre", ONE, "lre", "High where runs of equal grey level are long: coarse texture."
    ),
    "LongRunHighGrayLevelEmphasis": Definition(
        "rlm_lrhge", ONE, "lrhgle", "High where long runs have high grey levels."
    ),
    "LongRunLowGrayLevelEmphasis": Definition("rlm_lrlge", ONE, "lrlgle", "High where long runs have low grey levels."),
    "LowGrayLevelRunEmphasis": Definition("rlm_lgre", ONE, "lglre", "High where runs have low grey levels."),
    "RunEntropy": Definition("rlm_rl_entr", "bit", "re", "Shannon entropy of the runs' lengths and grey levels."),
    "RunLengthNonUniformity": Definition(
        "rlm_rlnu", ONE, "rln", "How unevenly the runs spread over the lengths; grows with their number."
    ),
    "RunLengthNonUniformityNormalized": Definition(
        "rlm_rlnu_norm", ONE, "rlnn", "How unevenly the runs spread over the lengths, whatever their number."
    ),
    "RunPercentage": Definition(
        "rlm_r_perc", ONE, "rp", "Number of runs over number of voxels; 1 for the finest texture."
    ),
    "RunVariance": Definition("rlm_rl_var", ONE, "rv", "Variance of the runs' lengths."),
    "ShortRunEmphasis": Definition(
        "rlm_sre", ONE, "sre", "High where runs of equal grey level are short: fine texture."
    ),
    "ShortRunHighGrayLevelEmphasis": Definition(
        "rlm_srhge", ONE, "srhgle", "High where short runs have high grey levels."
    ),
    "ShortRunLowGrayLevelEmphasis": Definition(
        "rlm_srlge", ONE, "srlgle", "High where short runs have low grey levels."
    ),
}

_GLSZM = {
    "GrayLevelNonUniformity": Definition(
        "szm_glnu", ONE, "gln", "How unevenly the zones spread over the grey levels; grows with their number."
    ),
    "GrayLevelNonUniformityNormalized": Definition(
        "szm_glnu_norm", ONE, "glnn", "How unevenly the zones spread over the grey levels, whatever their number."
    ),
    "GrayLevelVariance": Definition("szm_gl_var", ONE, "glv", "Variance of the zones' grey levels."),
    "HighGrayLevelZoneEmphasis": Definition("szm_hgze", ONE, "hglze", "High where zones have high grey levels."),
    "LargeAreaEmphasis": Definition(
        "szm_lze", ONE, "lae", "High where connected zones of equal grey level are large: coarse texture."
    ),
    "LargeAreaHighGrayLevelEmphasis": Definition(
        "szm_lzhge", ONE, "lahgle", "High where large zones have high grey levels."
    ),
    "LargeAreaLowGrayLevelEmphasis": Definition(
        "szm_lzlge", ONE, "lalgle", "High where large zones have low grey levels."
    ),
    "LowGrayLevelZoneEmphasis": Definition("szm_lgze", ONE, "lglze", "High where zones have low grey levels."),
    "SizeZoneNonUniformity": Definition(
        "szm_zsnu", ONE, "szn", "How unevenly the zones spread over the sizes; grows with their number."
    ),
    "SizeZoneNonUniformityNormalized": Definition(
        "szm_zsnu_norm", ONE, "sznn", "How unevenly the zones spread over the sizes, whatever their number."
    ),
    "SmallAreaEmphasis": Definition(
        "szm_sze", ONE, "sae", "High where connected zones of equal grey level are small: fine texture."
    ),
    "SmallAreaHighGrayLevelEmphasis": Definition(
        "szm_szhge", ONE, "sahgle", "High where small zones have high grey levels."
    ),
    "SmallAreaLowGrayLevelEmphasis": Definition(
        "szm_szlge", ONE, "salgle", "High where small zones have low grey levels."
    ),
    "ZoneEntropy": Definition("szm_zs_entr", "bit", "ze", "Shannon entropy of the zones' sizes and grey levels."),
    "ZonePercentage": Definition(
        "szm_z_perc", ONE, "zp", "Number of zones over number of voxels; 1 for the finest texture."
    ),
    "ZoneVariance": Definition("szm_zs_var", ONE, "zv", "Variance of the zones' sizes."),
}

_GLDM = {
    "DependenceEntropy": Definition(
        "ngl_dc_entr", "bit", "de", "Shannon entropy of grey levels and numbers of dependent neighbours."
    ),
    "DependenceNonUniformity": Definition(
        "ngl_dcnu",
        ONE,
        "dn",
        "How unevenly the voxels spread over the numbers of dependent neighbours; grows with the volume.",
    ),
    "DependenceNonUniformityNormalized": Definition(
        "ngl_dcnu_norm", ONE, "dnn", "How unevenly the voxels spread over the numbers of dependent neighbours."
    ),
    "DependencePercentage": Definition("ngl_dc_perc", ONE, "dp", "Always 1."),
    "DependenceVariance": Definition("ngl_dc_var", ONE, "dv", "Variance of the number of dependent neighbours."),
    "GrayLevelNonUniformity": Definition(
        "ngl_glnu", ONE, "gln", "How unevenly the voxels spread over the grey levels; grows with the volume."
    ),
    "GrayLevelNonUniformityNormalized": Definition(
        "ngl_glnu_norm", ONE, "glnn", "Equal to Uniformity of the first order."
    ),
    "GrayLevelVariance": Definition("ngl_gl_var", ONE, "glv", "Variance of the voxels' grey levels."),
    "HighGrayLevelEmphasis": Definition("ngl_hgce", ONE, "hgle", "Mean squared grey level."),
    "LargeDependenceEmphasis": Definition(
        "ngl_hde", ONE, "lde", "High where many neighbours have a voxel's grey level: homogeneous texture."
    ),
    "LargeDependenceHighGrayLevelEmphasis": Definition(
        "ngl_hdhge", ONE, "ldhgle", "High where homogeneous parts have high grey levels."
    ),
    "LargeDependenceLowGrayLevelEmphasis": Definition(
        "ngl_hdlge", ONE, "ldlgle", "High where homogeneous parts have low grey levels."
    ),
    "LowGrayLevelEmphasis": Definition("ngl_lgce", ONE, "lgle", "Mean inverse squared grey level."),
    "SmallDependenceEmphasis": Definition(
        "ngl_lde", ONE, "sde", "High where few neighbours have a voxel's grey level: heterogeneous texture."
    ),
    "SmallDependenceHighGrayLevelEmphasis": Definition(
        "ngl_ldhge", ONE, "sdhgle", "High where heterogeneous parts have high grey levels."
    ),
    "SmallDependenceLowGrayLevelEmphasis": Definition(
        "ngl_ldlge", ONE, "sdlgle", "High where heterogeneous parts have low grey levels."
    ),
}

_NGTDM = {
    "Busyness": Definition("ngt_busyness", ONE, "busyness", "High where grey levels change fast from voxel to voxel."),
    "Coarseness": Definition(
        "ngt_coarseness", ONE, "coarseness", "High where voxels differ little from the mean of their neighbourhood."
    ),
    "Complexity": Definition(
        "ngt_complexity", ONE, "complexity", "High where there are many sharp changes of grey level."
    ),
    "Contrast": Definition(
        "ngt_contrast", ONE, "contrast", "High where grey levels span a wide range and differ from their neighbourhood."
    ),
    "Strength": Definition(
        "ngt_strength", ONE, "strength", "High where structures are large and distinct in grey level."
    ),
}

DEFINITIONS: dict[str, dict[str, Definition]] = {
    "firstorder": _FIRST_ORDER,
    "shape": _SHAPE,
    "shape2D": _SHAPE_2D,
    "glcm": _GLCM,
    "glrlm": _GLRLM,
    "glszm": _GLSZM,
    "gldm": _GLDM,
    "ngtdm": _NGTDM,
}

_CLASS_MEANING = {
    "glcm": "Pairs of neighbouring voxels (GLCM). ",
    "glrlm": "Runs of equal grey level (GLRLM). ",
    "glszm": "Zones of equal grey level (GLSZM). ",
    "gldm": "Neighbours of similar grey level (GLDM). ",
    "ngtdm": "Voxels against their neighbourhood (NGTDM). ",
}
_CLASS_SHORT = {"firstorder": "fo", "shape2D": "shape2d"}

# Where the formulas stand; the versions that are installed here compute what version 3.0.1 documents.
_DOCUMENTATION = "https://pyradiomics.readthedocs.io/en/v3.0.1"
_CLASS_NAME = {
    "firstorder": "RadiomicsFirstOrder",
    "shape": "RadiomicsShape",
    "shape2D": "RadiomicsShape2D",
    "glcm": "RadiomicsGLCM",
    "glrlm": "RadiomicsGLRLM",
    "glszm": "RadiomicsGLSZM",
    "gldm": "RadiomicsGLDM",
    "ngtdm": "RadiomicsNGTDM",
}

# What becomes of the units of intensity in a derived image. LoG (normalised across scales) and wavelets are linear, so
# HU stay HU; a pattern is a code. The other filters stretch their result to the largest magnitude of the image, so
# that their unit is another one in every image.
_HU: dict[str, str] = {}
_HU_PER_MM = {HU: "HU mm^-1", HU2: "HU^2 mm^-2", HU2_MM3: "HU^2 mm"}
_CODES = {HU: ONE, HU2: ONE, HU2_MM3: MM3}
_ARBITRARY = {HU: "a.u.", HU2: "a.u.^2", HU2_MM3: "a.u.^2 mm^3"}


@dataclass(frozen=True)
class ImageType:
    """Images that PyRadiomics derives: pattern of their names, short name, meaning, units in place of those in HU, and
    the function of `radiomics.imageoperations` that documents the filter (empty: none).
    """

    pattern: str
    short: str
    meaning: str
    units: dict[str, str]
    function: str


_STRETCHED = "stretched to its largest magnitude"
# As they appear in a column, with `-` as PyRadiomics writes them; R turns `-` into `.`.
_IMAGES = (
    ImageType("original", "orig", "the image", _HU, ""),
    ImageType("squareroot", "sqrt", f"the square root of the image, {_STRETCHED}", _ARBITRARY, "getSquareRootImage"),
    ImageType("square", "sq", f"the square of the image, {_STRETCHED}", _ARBITRARY, "getSquareImage"),
    ImageType("logarithm", "ln", f"the logarithm of the image, {_STRETCHED}", _ARBITRARY, "getLogarithmImage"),
    ImageType("exponential", "exp", f"the exponential of the image, {_STRETCHED}", _ARBITRARY, "getExponentialImage"),
    ImageType(
        "gradient",
        "grad",
        "the gradient magnitude of the image (per voxel instead of per mm with gradientUseSpacing: false)",
        _HU_PER_MM,
        "getGradientImage",
    ),
    ImageType("lbp-2D", "lbp2d", "the local binary pattern of the slices", _CODES, "getLBP2DImage"),
    ImageType(r"lbp-3D-m(\d+)", r"lbp3dm\1", r"the local binary pattern in 3D, level \1", _CODES, "getLBP3DImage"),
    ImageType("lbp-3D-k", "lbp3dk", "the kurtosis map of the local binary pattern in 3D", _CODES, "getLBP3DImage"),
    ImageType(
        r"wavelet(\d*)-([LH]{2,3})",
        r"wav\1_\2",
        r"the \2 band of the image's wavelet transform (each low pass L multiplies by the square root of 2)",
        _HU,
        "getWaveletImage",
    ),
    ImageType(
        r"log-sigma-(\d+(?:-\d+)?(?:e[-+]?\d+)?)-mm-3D",
        r"log\1",
        r"the Laplacian of Gaussian (\1 mm wide, times the square of the width) of the image",
        _HU,
        "getLoGImage",
    ),
)

# Reserved in one of the three: R, SPSS, Stata (which also keeps names that begin with an underscore).
_RESERVED = frozenset(
    [
        "all",
        "and",
        "by",
        "eq",
        "ge",
        "gt",
        "le",
        "lt",
        "ne",
        "not",
        "or",
        "to",
        "with",
        "if",
        "else",
        "repeat",
        "while",
        "function",
        "for",
        "next",
        "break",
        "true",
        "false",
        "null",
        "inf",
        "nan",
        "na",
        "na_integer_",
        "na_real_",
        "na_complex_",
        "na_character_",
        "in",
        "byte",
        "double",
        "float",
        "int",
        "long",
        "str",
        "strl",
        "using",
    ]
)


def describe(column: str) -> FeatureInfo:
    """What is known of a feature column.

    Knows PyRadiomics' names (`wavelet-LLH_glcm_Idm`), as R mangles them (`wavelet.LLH_glcm_Idm`), and names
    made of feature and image type (`Idm.wavelet.LLH`); the class is left empty where several classes have a
    feature of that name. Anything else is empty.
    """
    found = _parse(column)
    kind = _image(found[0]) if found else None
    if found is None or kind is None:
        return FeatureInfo()
    image, name, feature = found
    if not name:
        return FeatureInfo(feature=feature, image_type=image)
    definition = DEFINITIONS[name][feature]
    meaning = _CLASS_MEANING.get(name, "") + definition.meaning
    formula = f"{_DOCUMENTATION}/features.html#radiomics.{name}.{_CLASS_NAME[name]}.get{feature}FeatureValue"
    if kind.function:
        meaning = f"{meaning} Of {kind.meaning}."
        formula += f"; {_DOCUMENTATION}/radiomics.html#radiomics.imageoperations.{kind.function}"
    return FeatureInfo(
        name,
        feature,
        image,
        definition.ibsi_tag,
        kind.units.get(definition.unit, definition.unit),
        meaning,
        IBSI_CODES.get(definition.ibsi_tag, ""),
        formula,
    )


def short_names(columns: Sequence[str]) -> dict[str, str]:
    """A short name for every column, legal and unique (see the top of this module).

    A feature of PyRadiomics gets its abbreviation, whatever other columns there are; another name that is legal
    stays, and of the rest the illegal characters become `_`. What is cut off or would be there twice ends with a
    checksum of the full name.
    """
    taken: set[str] = set()
    names: dict[str, str] = {}
    for column in sorted(columns, key=_precedence):
        name = _short(column)
        if len(name) > MAX_LENGTH or name.lower() in taken:
            name = _with_checksum(name, column)
        while name.lower() in taken:
            name = _with_checksum(name, column + name)
        taken.add(name.lower())
        names[column] = name
    return {column: names[column] for column in columns}


def _precedence(column: str) -> int:
    """Whose short name stays where two are alike: PyRadiomics' names, the same in other notations, legal names."""
    found = _parse(column)
    if found and found[1]:
        return 0 if column == "_".join(found) else 1
    return 2 if _short(column) == column else 3


def codebook_rows(table: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """One row a column of a table: table, column, short_name, class, image_type, ibsi_tag, ibsi_code, unit, formula,
    meaning.
    """
    short = short_names(columns)
    kind = "features_raw" if extraction_of(table) else table
    rows = []
    for column in columns:
        info = _fixed(kind, column) or describe(column)
        rows.append(
            {
                "table": table,
                "column": column,
                "short_name": short[column],
                "class": info.feature_class,
                "image_type": info.image_type,
                "ibsi_tag": info.ibsi_tag,
                "ibsi_code": info.ibsi_code,
                "unit": info.unit,
                "formula": info.formula,
                "meaning": info.meaning or _FOREIGN.get(kind, ""),
            }
        )
    return rows


def _parse(column: str) -> tuple[str, str, str] | None:
    """Image type (with hyphens), class (empty: several have such a feature) and feature of a column, or None."""
    parts = re.fullmatch(r"(.+)_([A-Za-z0-9]+)_([A-Za-z0-9]+)", column)
    if parts:
        image, name, feature = parts.groups()
        image = image.replace(".", "-")
        if _image(image) and feature in DEFINITIONS.get(name, {}):
            return image, name, feature
        return None
    feature, _, image = column.partition(".")
    image = image.replace(".", "-")
    classes = [name for name, features in DEFINITIONS.items() if feature in features]
    if not classes or _image(image) is None:
        return None
    if len(classes) > 1:  # the features of single slices have to be asked for, those of volumes are meant
        classes = [name for name in classes if name != "shape2D"]
    return image, classes[0] if len(classes) == 1 else "", feature


def _image(name: str) -> ImageType | None:
    """What is known of an image, its short name and meaning filled in; None for what PyRadiomics derives none of."""
    for kind in _IMAGES:
        match = re.fullmatch(kind.pattern, name)
        if match:
            short = re.sub(r"[-+]", "_", match.expand(kind.short))
            # A decimal point is a hyphen in names; that of an exponent stays one.
            meaning = re.sub(r"(?<=\d)-(?=\d)", ".", match.expand(kind.meaning))
            return replace(kind, short=short, meaning=meaning)
    return None


def _short(column: str) -> str:
    found = _parse(column)
    kind = _image(found[0]) if found else None
    if found and found[1] and kind:
        _, name, feature = found
        return f"{kind.short}_{_CLASS_SHORT.get(name, name)}_{DEFINITIONS[name][feature].short}".lower()
    plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_") if not _legal(column) else column
    if not plain or not plain[0].isalpha():
        plain = f"v_{plain}".rstrip("_")
    return f"{plain}_v" if plain.lower() in _RESERVED or re.fullmatch(r"str\d+", plain.lower()) else plain


def _legal(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None


def _with_checksum(name: str, full: str) -> str:
    return f"{name[: MAX_LENGTH - 7].rstrip('_')}_{hashlib.sha256(full.encode()).hexdigest()[:6]}"


_CASE = {
    "case_id": ("", "Name of the scan in the cohort sheet."),
    "patient_id": ("", "Name of the patient in the cohort sheet."),
    "centre": ("", "Centre where the scan was made."),
    "roi": ("", "Name of the region of interest."),
}
_XYZ = (("x", "right to left"), ("y", "front to back"), ("z", "foot to head"))
_ACQUIRED = {
    "manufacturer": ("", "Manufacturer of the scanner, one spelling each (Toshiba's scanners under Canon)."),
    "scanner_model": ("", "Model of the scanner."),
    "software": ("", "Version of the scanner's software."),
    "kernel": ("", "Convolution kernel of the reconstruction; mixed where slices differ."),
    "reconstruction": (
        "",
        "FBP or iterative, with the level as the vendor writes it; empty where the header doesn't say.",
    ),
    "kvp": ("kV", "Tube voltage. As all numbers of the header: the median where slices differ."),
    "tube_current": ("mA", "Tube current."),
    "exposure": ("mAs", "Exposure, as the vendor defines it: compare it within one manufacturer."),
    "slice_thickness": (MM, "Nominal slice thickness; spacing_z is the distance between slices."),
    "pitch": (ONE, "Spiral pitch factor: table feed a rotation over the width of the collimation."),
    "contrast": (
        "",
        "Whether a contrast agent was given: yes or no where the header says so; empty where it says nothing.",
    ),
    "table_height": (MM, "Height of the table."),
    "gantry_tilt": ("degree", "Tilt of the gantry."),
    "transfer_syntax": ("", "How the DICOM files code their pixels; mixed where they differ."),
    "scan_day": ("day", "Days from the patient's first dated scan in the cohort, which has 0."),
}
_FIXED: dict[str, dict[str, tuple[str, str]]] = {
    "codebook": {
        "table": ("", "Table that has the column."),
        "column": ("", "Name of the column as it is in the table; of a feature as PyRadiomics writes it."),
        "short_name": (
            "",
            "Name of at most 32 characters that Stata, SPSS and R accept; always the same for a feature.",
        ),
        "class": ("", "Class of the feature in PyRadiomics."),
        "image_type": ("", "Image that the feature was computed on: original, or derived by a filter."),
        "ibsi_tag": (
            "",
            "Name of the feature in the reference values of IBSI 1; empty where IBSI has no such feature.",
        ),
        "ibsi_code": ("", "Code of the feature in the reference manual of IBSI (arXiv:1612.07003)."),
        "unit": ("", "Unit; 1 for a number without one, a.u. for a scale that differs from image to image."),
        "formula": ("", "Where the formula stands; of a derived image also that of the filter."),
        "meaning": ("", "What the column says, in words."),
    },
    "cohort": {
        **_CASE,
        "status": ("", "Whether the case is in the feature tables: included or excluded."),
        "n_rois": (ONE, "Number of the case's ROIs in the feature tables."),
        **{
            name: (unit, f"{meaning} From the cohort sheet, or DICOM headers where it has gaps.")
            for name, (unit, meaning) in _ACQUIRED.items()
        },
    },
    "clinical": _CASE,
    "features_raw": _CASE,
    "features_harmonized": _CASE,
    "exclusions": {
        **_CASE,
        "roi": ("", "Region of interest that is excluded; empty where the whole case is."),
        "extraction": ("", "Extraction from which it is excluded; empty where it is from all of them."),
        "step": ("", "Step that excluded it."),
        "reason": ("", "Why it is excluded, with the figures."),
        "way_out": ("", "What can be done about it."),
    },
    "acquisition": {
        **_CASE,
        "format": ("", "File format of the source."),
        "dtype": ("", "Number type of the source's voxels."),
        **_ACQUIRED,
        **{f"spacing_{a}": (MM, f"Voxel spacing of the source from {way}.") for a, way in _XYZ},
        **{f"size_{a}": ("voxel", f"Voxels of the source from {way}.") for a, way in _XYZ},
        "hu_min": (HU, "Smallest value of the source."),
        "hu_max": (HU, "Largest value of the source."),
        **{f"resampled_spacing_{a}": (MM, f"Voxel spacing after resampling, from {way}.") for a, way in _XYZ},
        **{f"resampled_size_{a}": ("voxel", f"Voxels after resampling, from {way}.") for a, way in _XYZ},
        "calibration_method": ("", "How the HU calibration was found: phantom, drift, references or none."),
        "calibration_source": (
            "",
            "What it was found for: the case, its scanner (table of phantoms), its centre, the image, or none.",
        ),
        "calibration_slope": (ONE, "Slope of the calibration: calibrated = slope x observed + intercept."),
        "calibration_intercept": (HU, "Intercept of the calibration."),
        "calibration_sd_hu": (HU, "Standard deviation of the corrected value of water; empty where it is not known."),
        "air_hu": (HU, "Value of the air outside the body after the calibration; should be near -1000."),
        "air_voxels": ("voxel", "Voxels of air in which that value was measured."),
    },
    "qc": {
        **_CASE,
        "roi": ("", "Region of interest; empty where the item is of the whole case."),
        "step": ("", "Step that measured it or warned."),
        "item": (
            "",
            "What was measured; `warning` for a warning. Of samples of the net (dropout or ensemble): "
            "segmentation_pairwise_dice, their mean Dice two by two; segmentation_volume_ml and _sd_ml, mean and "
            "standard deviation of the volume; segmentation_volume_cv, their quotient; segmentation_epistemic, mean "
            "variance of the probability where any sample has the ROI. Of the calibration: its slope, intercept, the "
            "standard deviation of corrected values at some HU (empty where it is not known), and its source (in "
            "`warning`); observed_air_hu, observed_fat_hu and observed_muscle_hu, what a correction by references in "
            "the image used, before that correction. Of matched scans: their own point spread and slice thickness "
            "(full widths), and the standard deviations of the Gaussian that was applied, in mm. Of the step quality: "
            + " ".join(f"{name}: {one.meaning[:1].lower()}{one.meaning[1:]}" for name, one in QUALITY.items()),
        ),
        "value": ("", "Value of the item: HU, mm, mm^3, ml or a number, as the item's name or meaning says."),
        "warning": ("", "Text of the warning; of calibration_source, the source."),
    },
    "confounding": {
        "roi": _CASE["roi"],
        "variable": ("", "Outcome or covariate that the row is about."),
        "kind": ("", "outcome or covariate."),
        "scale": ("", "levels (words, outcomes, numbers of at most 5 values) or number."),
        "batch": ("", "Batch (centre, or what harmonize.batch names) that the row counts."),
        "level": ("", "Level of the variable that the row counts; empty for a number."),
        "n": (ONE, "Cases of the batch that have the level; of a number, those whose value is known."),
        "n_of_batch": (ONE, "Cases of the batch; a patient counts once in it."),
        "missing": (ONE, "Cases of the batch whose value is not known."),
        "share": (ONE, "n over the batch's cases with a known value."),
        "events": (ONE, "Cases of the batch whose outcome is not 0; empty where the outcome isn't coded by numbers."),
        "median_follow_up": (
            "",
            "Median follow-up of the batch by reverse Kaplan-Meier, in the unit of the time; empty where less than "
            "half of the cases were censored by the end.",
        ),
        "median": ("", "Median of a number in the batch."),
        "q1": ("", "Lower quartile of a number in the batch."),
        "q3": ("", "Upper quartile of a number in the batch."),
        "overlap": (
            ONE,
            "How far the distribution in the batch overlaps with that in all others: of levels the sum of the smaller "
            "shares, of a number 1 minus the Kolmogorov-Smirnov distance; 0 for none, 1 for the same.",
        ),
        "in_range": (ONE, "Share of the batch's numbers that lie within the range of the other batches."),
        "levels": (ONE, "Number of different values in all batches."),
        "cramers_v": (ONE, "Cramer's V of batch and level: 0 independent, 1 where one determines the other."),
        "cramers_v_corrected": (ONE, "The same without the bias of small tables (Bergsma 2013)."),
        "eta_squared": (ONE, "Share of a number's variance that lies between the batches."),
        "test": (
            "",
            "Test of independence from the batch: chi-square; where counts are small Fisher (2 x 2) or permutation "
            "(9,999 random tables with the same margins); Kruskal-Wallis for numbers.",
        ),
        "statistic": (ONE, "Its statistic; of Fisher's test the odds ratio."),
        "p": (ONE, "Its p value."),
        "note": ("", "Why something can't be had."),
    },
    "combat_diagnostics": {
        **_CASE,
        "feature": ("", "Feature that the row is about."),
        **{
            f"{name}_{when}": (ONE, f"{meaning} {when} harmonisation.")
            for when in ("before", "after")
            for name, meaning in (
                ("batch_r2", "Share of the feature's variance that lies between the batches,"),
                ("anova_p", "p value of the analysis of variance (equal means in all batches),"),
                ("anova_q", "The same, adjusted for the number of features (Benjamini-Hochberg),"),
                ("kruskal_p", "p value of the Kruskal-Wallis test (equal locations in all batches),"),
                ("kruskal_q", "The same, adjusted for the number of features (Benjamini-Hochberg),"),
                ("ks", "Largest Kolmogorov-Smirnov distance of a batch from all others,"),
                ("ks_p", "Its p value, adjusted for the number of batches (Bonferroni),"),
                ("ks_q", "The same, adjusted for the number of features (Benjamini-Hochberg),"),
                ("ad", "Standardised k-sample Anderson-Darling statistic of all batches,"),
                ("ad_p", "Its p value (limiting distribution of Scholz and Stephens 1987),"),
                ("ad_q", "The same, adjusted for the number of features (Benjamini-Hochberg),"),
            )
        },
    },
    "combat_batches": {
        "roi": _CASE["roi"],
        "feature": ("", "Feature that the row is about."),
        "batch": ("", "Batch that is compared with all others."),
        "n": (ONE, "Cases of the batch."),
        **{
            f"{name}_{when}": (ONE, f"{meaning} {when} harmonisation.")
            for when in ("before", "after")
            for name, meaning in (
                ("ks", "Kolmogorov-Smirnov distance of the batch from all others,"),
                ("ks_p", "Its p value (asymptotic),"),
                ("ks_q", "The same, adjusted for the number of features (Benjamini-Hochberg),"),
                ("ad", "Standardised Anderson-Darling statistic of the batch and all others,"),
                ("ad_p", "Its p value (limiting distribution of Scholz and Stephens 1987),"),
                ("ad_q", "The same, adjusted for the number of features (Benjamini-Hochberg),"),
            )
        },
    },
    "combat_covariates": {
        "roi": _CASE["roi"],
        "feature": ("", "Feature that the row is about."),
        "covariate": ("", "Column whose effect on the feature is measured."),
        "term": ("", "The covariate, or covariate[level] for a level of words against the first one."),
        "n": (ONE, "Patients of whom all covariates are known."),
        "effect_crude": (ONE, "Partial correlation before harmonisation given the other covariates, not the batch."),
        **{
            f"{name}_{when}": (ONE, f"{meaning} {when} harmonisation{given}.")
            for when, given in (
                ("before", ", given the batch and the other covariates"),
                ("after", ", given the other covariates, not the batch"),
            )
            for name, meaning in (
                ("effect", "Partial correlation of feature and term"),
                ("ci_low", "Lower end of its 95 % interval (Fisher),"),
                ("ci_high", "Upper end of its 95 % interval (Fisher),"),
                ("p", "p value of the slope of the term (t test)"),
                ("q", "The same, adjusted for the number of features (Benjamini-Hochberg),"),
            )
        },
        "kept": (
            "",
            "1 if the effect was significant before (q < 0.05) and is so after, with the same sign; 0 if not; empty "
            "if it was not significant before.",
        ),
    },
    "combat_summary": {
        "roi": _CASE["roi"],
        "measure": (
            "",
            "batch_r2: share of a feature's variance between the batches; features_anderson_darling and "
            "features_kolmogorov_smirnov: share of features that differ between batches; batch_auc: area under the "
            "curve of guessing the batch from all features (0.5 is chance); covariate_significant, covariate_effect, "
            "covariate_kept: effects of a covariate on the features (see combat_covariates).",
        ),
        "stage": (
            "",
            "before or after harmonisation; 'after, new cases': harmonised by a ComBat that learned from other cases; "
            "'after, shuffled': the same with the batches shuffled, so that there is nothing to remove.",
        ),
        "batch": ("", "Batch that is compared with all others; all for all batches together."),
        "estimate": (ONE, "Value of the measure."),
        "ci_low": (ONE, "Lower end of its 95 % interval (bootstrap of patients within batches), where it has one."),
        "ci_high": (ONE, "Upper end of its 95 % interval."),
        "note": ("", "Counts behind it, what to keep in mind, or why there is no value."),
    },
    "combat_rows": {
        **_CASE,
        "column": ("", "Batch column that the row is about (harmonize.batch)."),
        "batch": ("", "Batch of the case in that column."),
        "status": ("", "What became of the case: harmonised, adapted, passed through, unchanged or excluded, and why."),
    },
    "stability": {
        "feature": ("", "Feature that the row is about."),
        "roi": _CASE["roi"],
        "source": ("", "What was repeated: perturbation (of image and ROI) or repeats (scans or readers, repeat_id)."),
        "icc": ("", "Form of the intraclass correlation (Shrout and Fleiss 1979): ICC(1,1), ICC(2,1) or ICC(3,1)."),
        "scope": ("", "Cases that it is over: all, or those of one centre."),
        "centre": ("", "Centre whose cases it is over; empty for all cases."),
        "estimate": (ONE, "Intraclass correlation of a single measurement; empty where it can't be estimated."),
        "ci_low": (ONE, "Lower end of its 95 % interval (F distribution; McGraw and Wong 1996)."),
        "ci_high": (ONE, "Upper end of its 95 % interval."),
        "n_cases": (ONE, "Number of patients that it rests on."),
        "n_repeats": (ONE, "Mean number of perturbations or repeats of each."),
        "note": ("", "Why there is no coefficient, or what to keep in mind."),
    },
    "sensitivity": {
        "roi": ("", "Name of the region of interest."),
        "feature": ("", "Feature that the row is about."),
        "parameter": ("", "What was changed: bin_width (HU) or spacing (x, y and z; mm)."),
        "baseline": ("", "Value of the parameter in the run."),
        "setting": ("", "Value of the parameter that the run is compared with."),
        "n": (ONE, "Number of cases that have the feature under both."),
        "change": (
            "",
            "relative: changes are divided by the baseline's absolute value; absolute: they are in the feature's unit, "
            "because the baseline is not on one side of 0 in all cases.",
        ),
        "median_change": ("", "Median over the cases of the change from the baseline."),
        "q1_change": ("", "Lower quartile of the change."),
        "q3_change": ("", "Upper quartile of the change."),
        "spearman": (ONE, "Spearman's rank correlation with the baseline over the cases; 1 where no rank changes."),
        "concordance": (ONE, "Lin's concordance with the baseline over the cases; 1 where no value changes."),
    },
    **MODEL_COLUMNS,
    "predictions": {**_CASE, **MODEL_COLUMNS["predictions"]},
    "checklist": {
        "checklist": ("", "Name of the checklist; its paper is named in the report."),
        "item": ("", "Number of the item in the checklist."),
        "topic": ("", "Section and topic of the item, in other words than the checklist's."),
        "answered_by": ("", "Who answers it: software, authors, or software in part."),
        "answer": ("", "The answer, with this run's figures; what is left to the authors begins with For the authors."),
        "where": ("", "Where the answer can be seen: a table, methods.md or a section of the report."),
    },
}
_FOREIGN = {
    "cohort": "Column of the cohort sheet, as it was given.",
    "clinical": "Column of the clinical table, as it was given.",
    "features_raw": "Feature of a table that was made elsewhere.",
    "features_harmonized": "Feature of a table that was made elsewhere.",
}


def _fixed(table: str, column: str) -> FeatureInfo | None:
    found = _FIXED.get(table, {}).get(column)
    return FeatureInfo(unit=found[0], meaning=found[1]) if found else None
