# Radloom: CT scans of many centres into radiomics tables that a statistician can trust.
# Here are only the targets; workflow/rules/common.smk reads the configuration, the other files hold one rule a step.
from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"


rule all:
    default_target: True
    input:
        RUN.targets(),


include: "workflow/rules/images.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"
