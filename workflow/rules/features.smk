# The quality of scans and ROIs, features, what their settings do to them, and the picture of each case for the report.


rule quality:
    input:
        plan=RUN.plan("quality"),
        before=RUN.before("quality"),
    output:
        RUN.manifest("quality"),
    log:
        RUN.log("quality"),
    priority: 6
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=minutes(2),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/quality.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


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


rule sensitivity:
    input:
        plan=RUN.plan("sensitivity"),
        before=RUN.before("sensitivity"),
    output:
        RUN.manifest("sensitivity"),
    log:
        RUN.log("sensitivity"),
    priority: 7
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=minutes(30),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/sensitivity.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'


rule voxel_maps:
    input:
        plan=RUN.plan("voxel_maps"),
        before=RUN.before("voxel_maps"),
    output:
        RUN.manifest("voxel_maps"),
    log:
        RUN.log("voxel_maps"),
    priority: 7
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=8000,
        runtime=minutes(60),
        gpu=0,
    shell:
        'python "$RADLOOM_SCRIPTS"/voxel_maps.py --plan {input.plan:q} --manifest {output:q} > {log:q} 2>&1'
