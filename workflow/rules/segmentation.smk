# ROIs: from masks or the U-Net, and their morphology.


rule segment:
    input:
        RUN.needed("segment"),
    output:
        RUN.manifest("segment"),
    log:
        RUN.log("segment"),
    conda:
        ENVIRONMENT
    threads: 1
    priority: 4
    resources:
        mem_mb=8000,
        runtime=minutes(10),
        gpu=uses_gpu(RUN.config),
    shell:
        "python {SCRIPTS:q}/segment.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"


rule postprocess:
    input:
        RUN.needed("postprocess"),
    output:
        RUN.manifest("postprocess"),
    log:
        RUN.log("postprocess"),
    conda:
        ENVIRONMENT
    threads: 1
    priority: 5
    resources:
        mem_mb=4000,
        runtime=minutes(2),
        gpu=0,
    shell:
        "python {SCRIPTS:q}/postprocess.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"
