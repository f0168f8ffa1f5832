# Tables, harmonisation and models: steps that see the whole cohort.


rule tables:
    input:
        plan=RUN.plan("tables", COHORT),
        before=RUN.before_cohort("tables"),
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
        'python "$RADLOOM_SCRIPTS"/tables.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule stability:
    input:
        plan=RUN.plan("stability", COHORT),
        before=RUN.before_cohort("stability"),
    output:
        RUN.manifest("stability", COHORT),
    log:
        RUN.log("stability", COHORT),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/stability.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule harmonize:
    input:
        plan=RUN.plan("harmonize", COHORT),
        before=RUN.before_cohort("harmonize"),
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
        'python "$RADLOOM_SCRIPTS"/harmonize.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule model_cox:
    input:
        plan=RUN.plan("model_cox", COHORT),
        before=RUN.before_cohort("model_cox"),
    output:
        RUN.manifest("model_cox", COHORT),
    log:
        RUN.log("model_cox", COHORT),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/model_cox.py --plan {input.plan:q} --manifest {output:q} --workers {threads}'
        " > {log:q} 2>&1"


rule model_logistic:
    input:
        plan=RUN.plan("model_logistic", COHORT),
        before=RUN.before_cohort("model_logistic"),
    output:
        RUN.manifest("model_logistic", COHORT),
    log:
        RUN.log("model_logistic", COHORT),
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/model_logistic.py --plan {input.plan:q} --manifest {output:q} --workers {threads}'
        " > {log:q} 2>&1"


rule sensitivity_table:
    input:
        plan=RUN.plan("sensitivity_table", COHORT),
        before=RUN.before_cohort("sensitivity_table"),
    output:
        RUN.manifest("sensitivity_table", COHORT),
    log:
        RUN.log("sensitivity_table", COHORT),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/sensitivity_table.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'
