# Tables, harmonisation and models: steps that see the whole cohort.


rule tables:
    input:
        RUN.needed_by_cohort("tables"),
    output:
        RUN.manifest("tables", COHORT),
    log:
        RUN.log("tables", COHORT),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=0,
    shell:
        "python {SCRIPTS:q}/tables.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"


rule harmonize:
    input:
        RUN.needed_by_cohort("harmonize"),
    output:
        RUN.manifest("harmonize", COHORT),
    log:
        RUN.log("harmonize", COHORT),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=0,
    shell:
        "python {SCRIPTS:q}/harmonize.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"


rule model_cox:
    input:
        RUN.needed_by_cohort("model_cox"),
    output:
        RUN.manifest("model_cox", COHORT),
    log:
        RUN.log("model_cox", COHORT),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=0,
    shell:
        "python {SCRIPTS:q}/model_cox.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"


rule model_logistic:
    input:
        RUN.needed_by_cohort("model_logistic"),
    output:
        RUN.manifest("model_logistic", COHORT),
    log:
        RUN.log("model_logistic", COHORT),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=0,
    shell:
        "python {SCRIPTS:q}/model_logistic.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"
