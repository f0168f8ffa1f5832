# The report, and the volumes that go when nobody needs them any more.


rule report:
    input:
        plan=RUN.plan("report", COHORT),
        before=RUN.before_cohort("report"),
    output:
        RUN.manifest("report", COHORT),
    log:
        RUN.log("report", COHORT),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/report.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule tidy:
    input:
        RUN.before_tidy(),
    output:
        RUN.manifest("tidy"),
    log:
        RUN.log("tidy"),
    priority: 8
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
        gpu=0,
    shell:
        "python -m radloom.engine.tidy {input:q} --manifest {output:q} > {log:q} 2>&1"
