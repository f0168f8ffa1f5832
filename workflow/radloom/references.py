"""The papers behind the methods, and how a text cites them: `[@key]` becomes a number, in the order of citing."""

from __future__ import annotations

import re
from collections.abc import Sequence

REFERENCES = {
    "achanta2012": "Achanta R et al. SLIC superpixels compared to state-of-the-art superpixel methods. IEEE Trans "
    "Pattern Anal Mach Intell 2012;34:2274-2282. doi:10.1109/TPAMI.2012.120",
    "austin2019": "Austin PC, Steyerberg EW. The Integrated Calibration Index (ICI) and related metrics for "
    "quantifying the calibration of logistic regression models. Stat Med 2019;38:4051-4065. doi:10.1002/sim.8281",
    "austin2020": "Austin PC, Harrell FE, van Klaveren D. Graphical calibration curves and the integrated calibration "
    "index (ICI) for survival models. Stat Med 2020;39:2714-2742. doi:10.1002/sim.8570",
    "benjamini1995": "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful "
    "approach to multiple testing. J R Stat Soc B 1995;57:289-300. doi:10.1111/j.2517-6161.1995.tb02031.x",
    "bergsma2013": "Bergsma W. A bias-correction for Cramér's V and Tschuprow's T. J Korean Stat Soc 2013;42:323-328. "
    "doi:10.1016/j.jkss.2012.10.002",
    "blanche2013": "Blanche P, Dartigues JF, Jacqmin-Gadda H. Review and comparison of ROC curve estimators for a "
    "time-dependent outcome with marker-dependent censoring. Biom J 2013;55:687-704. doi:10.1002/bimj.201200045",
    "breslow1974": "Breslow N. Covariance analysis of censored survival data. Biometrics 1974;30:89-99. "
    "doi:10.2307/2529620",
    "brier1950": "Brier GW. Verification of forecasts expressed in terms of probability. Mon Weather Rev 1950;78:1-3. "
    "doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2",
    "chen2022": "Chen AA et al. Mitigating site effects in covariance for machine learning in neuroimaging data. Hum "
    "Brain Mapp 2022;43:1179-1195. doi:10.1002/hbm.25688",
    "collins2024": "Collins GS et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction models "
    "that use regression or machine learning methods. BMJ 2024;385:e078378. doi:10.1136/bmj-2023-078378",
    "cox1958": "Cox DR. Two further applications of a model for binary regression. Biometrika 1958;45:562-565. "
    "doi:10.1093/biomet/45.3-4.562",
    "crowson2016": "Crowson CS, Atkinson EJ, Therneau TM. Assessing calibration of prognostic risk scores. Stat "
    "Methods Med Res 2016;25:1692-1706. doi:10.1177/0962280213497434",
    "debray2017": "Debray TPA et al. A guide to systematic review and meta-analysis of prediction model performance. "
    "BMJ 2017;356:i6460. doi:10.1136/bmj.i6460",
    "efron1977": "Efron B. The efficiency of Cox's likelihood function for censored data. J Am Stat Assoc "
    "1977;72:557-565. doi:10.1080/01621459.1977.10480613",
    "firth1993": "Firth D. Bias reduction of maximum likelihood estimates. Biometrika 1993;80:27-38. "
    "doi:10.1093/biomet/80.1.27",
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
    "hartung2001": "Hartung J, Knapp G. A refined method for the meta-analysis of controlled clinical trials with "
    "binary outcome. Stat Med 2001;20:3875-3889. doi:10.1002/sim.1009",
    "heinze2002": "Heinze G, Schemper M. A solution to the problem of separation in logistic regression. Stat Med "
    "2002;21:2409-2419. doi:10.1002/sim.1047",
    "higgins2009": "Higgins JPT, Thompson SG, Spiegelhalter DJ. A re-evaluation of random-effects meta-analysis. J R "
    "Stat Soc A 2009;172:137-159. doi:10.1111/j.1467-985X.2008.00552.x",
    "horng2022": "Horng H et al. Generalized ComBat harmonization methods for radiomic features with multi-modal "
    "distributions and multiple batch effects. Sci Rep 2022;12:4493. doi:10.1038/s41598-022-08412-9",
    "johnson2007": "Johnson WE, Li C, Rabinovic A. Adjusting batch effects in microarray expression data using "
    "empirical Bayes methods. Biostatistics 2007;8:118-127. doi:10.1093/biostatistics/kxj037",
    "kattan2018": "Kattan MW, Gerds TA. The index of prediction accuracy: an intuitive measure useful for evaluating "
    "risk prediction models. Diagn Progn Res 2018;2:7. doi:10.1186/s41512-018-0029-2",
    "kocak2023": "Kocak B et al. CheckList for EvaluAtion of Radiomics research (CLEAR). Insights Imaging 2023;14:75. "
    "doi:10.1186/s13244-023-01415-8",
    "kocak2024": "Kocak B et al. METhodological RadiomICs Score (METRICS). Insights Imaging 2024;15:8. "
    "doi:10.1186/s13244-023-01572-w",
    "koo2016": "Koo TK, Li MY. A guideline of selecting and reporting intraclass correlation coefficients for "
    "reliability research. J Chiropr Med 2016;15:155-163. doi:10.1016/j.jcm.2016.02.012",
    "lin1989": "Lin LI. A concordance correlation coefficient to evaluate reproducibility. Biometrics "
    "1989;45:255-268. doi:10.2307/2532051",
    "linwei1989": "Lin DY, Wei LJ. The robust inference for the Cox proportional hazards model. J Am Stat Assoc "
    "1989;84:1074-1078. doi:10.1080/01621459.1989.10478874",
    "mcgraw1996": "McGraw KO, Wong SP. Forming inferences about some intraclass correlation coefficients. Psychol "
    "Methods 1996;1:30-46. doi:10.1037/1082-989X.1.1.30",
    "moelder2021": "Mölder F et al. Sustainable data analysis with Snakemake. F1000Research 2021;10:33. "
    "doi:10.12688/f1000research.29032.2",
    "noma2021": "Noma H et al. Confidence intervals of prediction accuracy measures for multivariable prediction "
    "models based on the bootstrap-based optimism correction methods. Stat Med 2021;40:5691-5701. doi:10.1002/sim.9148",
    "prentice1978": "Prentice RL et al. The analysis of failure times in the presence of competing risks. Biometrics "
    "1978;34:541-554. doi:10.2307/2530374",
    "putter2007": "Putter H, Fiocco M, Geskus RB. Tutorial in biostatistics: competing risks and multi-state models. "
    "Stat Med 2007;26:2389-2430. doi:10.1002/sim.2712",
    "riley2019": "Riley RD et al. Minimum sample size for developing a multivariable prediction model: part II, "
    "binary and time-to-event outcomes. Stat Med 2019;38:1276-1296. doi:10.1002/sim.7992",
    "riley2020": "Riley RD et al. Calculating the sample size required for developing a clinical prediction model. "
    "BMJ 2020;368:m441. doi:10.1136/bmj.m441",
    "roever2015": "Röver C, Knapp G, Friede T. Hartung-Knapp-Sidik-Jonkman approach and its modification for "
    "random-effects meta-analysis with few studies. BMC Med Res Methodol 2015;15:99. doi:10.1186/s12874-015-0091-1",
    "ronneberger2015": "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image "
    "segmentation. MICCAI 2015, LNCS 9351:234-241. doi:10.1007/978-3-319-24574-4_28",
    "shrout1979": "Shrout PE, Fleiss JL. Intraclass correlations: uses in assessing rater reliability. Psychol Bull "
    "1979;86:420-428. doi:10.1037/0033-2909.86.2.420",
    "simon2011": "Simon N et al. Regularization paths for Cox's proportional hazards model via coordinate descent. J "
    "Stat Softw 2011;39(5):1-13. doi:10.18637/jss.v039.i05",
    "steyerberg2016": "Steyerberg EW, Harrell FE. Prediction models need appropriate internal, internal-external, and "
    "external validation. J Clin Epidemiol 2016;69:245-247. doi:10.1016/j.jclinepi.2015.04.005",
    "tibshirani1996": "Tibshirani R. Regression shrinkage and selection via the lasso. J R Stat Soc B "
    "1996;58:267-288. doi:10.1111/j.2517-6161.1996.tb02080.x",
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
    "vickers2008": "Vickers AJ et al. Extensions to decision curve analysis, a novel method for evaluating diagnostic "
    "tests, prediction models and molecular markers. BMC Med Inform Decis Mak 2008;8:53. doi:10.1186/1472-6947-8-53",
    "viechtbauer2005": "Viechtbauer W. Bias and efficiency of meta-analytic variance estimators in the random-effects "
    "model. J Educ Behav Stat 2005;30:261-293. doi:10.3102/10769986030003261",
    "yeo2000": "Yeo IK, Johnson RA. A new family of power transformations to improve normality or symmetry. "
    "Biometrika 2000;87:954-959. doi:10.1093/biomet/87.4.954",
    "zadrozny2002": "Zadrozny B, Elkan C. Transforming classifier scores into accurate multiclass probability "
    "estimates. KDD 2002;694-699. doi:10.1145/775047.775151",
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
