# From the centres' files to images on one grid in true HU.


rule ingest:
    input:
        plan=RUN.plan("ingest"),
        before=RUN.before("ingest"),
    output:
        RUN.manifest("ingest"),
    log:
        RUN.log("ingest"),
    priority: 1
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=int(1024 * RUN.config["ingest"]["memory_gb"]) + 500,
        runtime=minutes(2),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/ingest.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule resample:
    input:
        plan=RUN.plan("resample"),
        before=RUN.before("resample"),
    output:
        RUN.manifest("resample"),
    log:
        RUN.log("resample"),
    priority: 2
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=6000,
        runtime=minutes(2),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/resample.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule calibrate:
    input:
        plan=RUN.plan("calibrate"),
        before=RUN.before("calibrate"),
    output:
        RUN.manifest("calibrate"),
    log:
        RUN.log("calibrate"),
    priority: 3
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=6000,
        runtime=minutes(1),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/calibrate.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'
