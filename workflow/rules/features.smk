# Features, and the picture of each case for the report.


rule extract:
    input:
        RUN.needed("extract"),
    output:
        RUN.manifest("extract"),
    log:
        RUN.log("extract"),
    conda:
        ENVIRONMENT
    threads: 1
    priority: 6
    resources:
        mem_mb=8000,
        runtime=minutes(10),
        gpu=0,
    shell:
        "python {SCRIPTS:q}/extract.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"


rule overlay:
    input:
        RUN.needed("overlay"),
    output:
        RUN.manifest("overlay"),
    log:
        RUN.log("overlay"),
    conda:
        ENVIRONMENT
    threads: 1
    priority: 7
    resources:
        mem_mb=4000,
        runtime=minutes(1),
        gpu=0,
    shell:
        "python {SCRIPTS:q}/overlay.py --plan {input[0]:q} --manifest {output:q} > {log:q} 2>&1"
