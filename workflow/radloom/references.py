"""The papers behind the methods, and how a text cites them: `[@key]` becomes a number, in the order of citing."""

from __future__ import annotations

import re
from collections.abc import Sequence

REFERENCES = {
    "achanta2012": "Achanta R et al. SLIC superpixels compared to state-of-the-art superpixel methods. IEEE Trans "
    "Pattern Anal Mach Intell 2012;34:2274-2282. doi:10.1109/TPAMI.2012.120",
    "benjamini1995": "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach "
    "to multiple testing. J R Stat Soc B 1995;57:289-300. doi:10.1111/j.2517-6161.1995.tb02031.x",
    "brier1950": "Brier GW. Verification of forecasts expressed in terms of probability. Mon Weather Rev 1950;78:1-3. "
    "doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2",
    "chen2022": "Chen AA et al. Mitigating site effects in covariance for machine learning in neuroimaging data. Hum "
    "Brain Mapp 2022;43:1179-1195. doi:10.1002/hbm.25688",
    "collins2024": "Collins GS et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction models "
    "that use regression or machine learning methods. BMJ 2024;385:e078378. doi:10.1136/bmj-2023-078378",
    "debray2017": "Debray TPA et al. A guide to systematic review and meta-analysis of prediction model performance. "
    "BMJ 2017;356:i6460. doi:10.1136/bmj.i6460",
    "fortin2018": "Fortin JP et al. Harmonization of cortical thickness measurements across scanners and sites. "
    "NeuroImage 2018;167:104-120. doi:10.1016/j.neuroimage.2017.11.024",
    "friedman2010": "Friedman J, Hastie T, Tibshirani R. Regularization paths for generalized linear models via "
    "coordinate descent. J Stat Softw 2010;33(1):1-22. doi:10.18637/jss.v033.i01",
    "graf1999": "Graf E et al. Assessment and comparison of prognostic classification schemes for survival data. Stat "
    "Med 1999;18:2529-2545. doi:10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5",
    "grambsch1994": "Grambsch PM, Therneau TM. Proportional hazards tests and diagnostics based on weighted "
    "residuals. Biometrika 1994;81:515-526. doi:10.1093/biomet/81.3.515",
    "harrell1996": "Harrell FE, Lee KL, Mark DB. Multivariable prognostic models: issues in developing models, "
    "evaluating assumptions and adequacy, and measuring and reducing errors. Stat Med 1996;15:361-387. "
    "doi:10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4",
    "johnson2007": "Johnson WE, Li C, Rabinovic A. Adjusting batch effects in microarray expression data using "
    "empirical Bayes methods. Biostatistics 2007;8:118-127. doi:10.1093/biostatistics/kxj037",
    "kocak2023": "Kocak B et al. CheckList for EvaluAtion of Radiomics research (CLEAR). Insights Imaging 2023;14:75. "
    "doi:10.1186/s13244-023-01415-8",
    "kocak2024": "Kocak B et al. METhodological RadiomICs Score (METRICS). Insights Imaging 2024;15:8. "
    "doi:10.1186/s13244-023-01572-w",
    "koo2016": "Koo TK, Li MY. A guideline of selecting and reporting intraclass correlation coefficients for "
    "reliability research. J Chiropr Med 2016;15:155-163. doi:10.1016/j.jcm.2016.02.012",
    "lin1989": "Lin LI. A concordance correlation coefficient to evaluate reproducibility. Biometrics "
    "1989;45:255-268. doi:10.2307/2532051",
    "mcgraw1996": "McGraw KO, Wong SP. Forming inferences about some intraclass correlation coefficients. Psychol "
    "Methods 1996;1:30-46. doi:10.1037/1082-989X.1.1.30",
    "moelder2021": "Mölder F et al. Sustainable data analysis with Snakemake. F1000Research 2021;10:33. "
    "doi:10.12688/f1000research.29032.2",
    "riley2020": "Riley RD et al. Calculating the sample size required for developing a clinical prediction model. "
    "BMJ 2020;368:m441. doi:10.1136/bmj.m441",
    "ronneberger2015": "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image "
    "segmentation. MICCAI 2015, LNCS 9351:234-241. doi:10.1007/978-3-319-24574-4_28",
    "shrout1979": "Shrout PE, Fleiss JL. Intraclass correlations: uses in assessing rater reliability. Psychol Bull "
    "1979;86:420-428. doi:10.1037/0033-2909.86.2.420",
    "simon2011": "Simon N et al. Regularization paths for Cox's proportional hazards model via coordinate descent. J "
    "Stat Softw 2011;39(5):1-13. doi:10.18637/jss.v039.i05",
    "uno2007": "Uno H et al. Evaluating prediction rules for t-year survivors with censored regression models. J Am "
    "Stat Assoc 2007;102:527-537. doi:10.1198/016214507000000149",
    "uno2011": "Uno H et al. On the C-statistics for evaluating overall adequacy of risk prediction procedures with "
    "censored survival data. Stat Med 2011;30:1105-1117. doi:10.1002/sim.4154",
    "vancalster2019": "Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med "
    "2019;17:230. doi:10.1186/s12916-019-1466-7",
    "vangriethuysen2017": "van Griethuysen JJM et al. Computational radiomics system to decode the radiographic "
    "phenotype. Cancer Res 2017;77:e104-e107. doi:10.1158/0008-5472.CAN-17-0339",
    "vickers2006": "Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating prediction models. "
    "Med Decis Making 2006;26:565-574. doi:10.1177/0272989X06295361",
    "zou2005": "Zou H, Hastie T. Regularization and variable selection via the elastic net. J R Stat Soc B "
    "2005;67:301-320. doi:10.1111/j.1467-9868.2005.00503.x",
    "zwanenburg2019": "Zwanenburg A et al. Assessing robustness of radiomic features by image perturbation. Sci Rep "
    "2019;9:614. doi:10.1038/s41598-018-36938-4",
    "zwanenburg2020": "Zwanenburg A et al. The Image Biomarker Standardization Initiative: standardized quantitative "
    "radiomics for high-throughput image-based phenotyping. Radiology 2020;295:328-338. doi:10.1148/radiol.2020191145",
}
"""Author, title, journal and DOI by key (first author and year)."""

_CITED = re.compile(r" ?\[((?:@[a-z]+\d{4}(?:, )?)+)\]")


def cite(*keys: str) -> str:
    """The mark of a citation, to stand in a sentence after the word that it belongs to."""
    return f" [{', '.join(f'@{key}' for key in keys)}]"


def without_citations(text: str) -> str:
    """A text without its marks of citations."""
    return _CITED.sub("", text)


def numbered(text: str) -> tuple[str, list[str]]:
    """A text with numbers for its citations, and the references that they stand for, in order.

    Raises KeyError for a mark of an unknown reference.
    """
    order: list[str] = []

    def number(match: re.Match[str]) -> str:
        keys = re.findall(r"@([a-z]+\d{4})", match[1])
        for key in keys:
            if key not in order:
                order.append(key)
        return " [" + ", ".join(str(place) for place in sorted(order.index(key) + 1 for key in keys)) + "]"

    told = _CITED.sub(number, text)
    return told, [REFERENCES[key] for key in order]


def reference_list(references: Sequence[str]) -> list[str]:
    """References as lines of an ordered list."""
    return [f"{place}. {reference}" for place, reference in enumerate(references, start=1)]
