# From the centres' files to images on one grid in true HU.


rule ingest:
    input:
        RUN.needed("ingest"),
    output:
        RUN.manifest("ingest"),
    log:
        RUN.log("ingest"),
    conda:
        ENVIRONMENT
    threads: 1
    priority: 1
    resources:
        mem_mb=9000,
        runtime=minutes(2),
        gpu=0,
    shell:
        "python {SCRIPTS:q}/ingest.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"


rule resample:
    input:
        RUN.needed("resample"),
    output:
        RUN.manifest("resample"),
    log:
        RUN.log("resample"),
    conda:
        ENVIRONMENT
    threads: 1
    priority: 2
    resources:
        mem_mb=6000,
        runtime=minutes(2),
        gpu=0,
    shell:
        "python {SCRIPTS:q}/resample.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"


rule calibrate:
    input:
        RUN.needed("calibrate"),
    output:
        RUN.manifest("calibrate"),
    log:
        RUN.log("calibrate"),
    conda:
        ENVIRONMENT
    threads: 1
    priority: 3
    resources:
        mem_mb=6000,
        runtime=minutes(1),
        gpu=0,
    shell:
        "python {SCRIPTS:q}/calibrate.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"
