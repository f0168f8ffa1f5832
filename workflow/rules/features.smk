# Features, and the picture of each case for the report.


rule extract:
    input:
        plan=RUN.plan("extract"),
        before=RUN.before("extract"),
    output:
        RUN.manifest("extract"),
    log:
        RUN.log("extract"),
    priority: 6
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=minutes(10),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/extract.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule perturb:
    input:
        plan=RUN.plan("perturb"),
        before=RUN.before("perturb"),
    output:
        RUN.manifest("perturb"),
    log:
        RUN.log("perturb"),
    priority: 6
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=minutes(10 + RUN.config["perturb"]["count"]),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/perturb.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule overlay:
    input:
        plan=RUN.plan("overlay"),
        before=RUN.before("overlay"),
    output:
        RUN.manifest("overlay"),
    log:
        RUN.log("overlay"),
    priority: 7
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=minutes(1),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/overlay.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'
