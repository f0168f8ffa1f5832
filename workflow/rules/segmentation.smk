# ROIs: from masks or the U-Net, and their morphology.


rule segment:
    input:
        plan=RUN.plan("segment"),
        before=RUN.before("segment"),
    output:
        RUN.manifest("segment"),
    log:
        RUN.log("segment"),
    priority: 4
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=minutes(segmentation_minutes(RUN.config)),
        gpu=uses_gpu(RUN.config),
    shell:
        'python "$RADLOOM_SCRIPTS"/segment.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule postprocess:
    input:
        plan=RUN.plan("postprocess"),
        before=RUN.before("postprocess"),
    output:
        RUN.manifest("postprocess"),
    log:
        RUN.log("postprocess"),
    priority: 5
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=minutes(2),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/postprocess.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'
