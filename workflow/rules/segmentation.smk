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
        mem_mb=segmentation_mb(RUN.config),
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


rule train_segmentation:
    input:
        plan=RUN.plan("train_segmentation", COHORT),
        before=RUN.before_cohort("train_segmentation"),
    output:
        RUN.manifest("train_segmentation", COHORT),
    log:
        RUN.log("train_segmentation", COHORT),
    conda:
        ENVIRONMENT
    threads: training_threads(RUN.config)
    resources:
        mem_mb=16000,
        runtime=2880,
        gpu=trains_on_gpus(RUN.config),
    shell:
        'python "$RADLOOM_SCRIPTS"/train_segmentation.py --plan {input.plan:q} --manifest {output:q}'
        " > {log:q} 2>&1"
