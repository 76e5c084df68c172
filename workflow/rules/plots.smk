"""Plots: figures of finished tables and of the runs' losses.

Reads   <results>/study.yaml, throughput.csv and the runs' metrics.jsonl
Writes  figures/loss_vs_tokens, loss_vs_time, throughput, scaling_efficiency: .svg and .png
Writes  the tables of the analyses that the grid has, and figures of the same names
Writes  scaling_law.csv, .md and figures/scaling_law, only on request
"""

from study.analysis.series import find_analyses, table_files
from study.jobs.workflow import code

ANALYSES = find_analyses(GRID)


rule loss_curves:
    """Loss against tokens and against wall-clock time, all cells"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",  # changes with every run
        code=code("measure", "show"),
    output:
        collect(
            "<results>/figures/{figure}.{suffix}",
            figure=["loss_vs_tokens", "loss_vs_time"],
            suffix=["svg", "png"],
        ),
    log:
        "<results>/logs/loss_curves.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m study plot-losses --study {input.study:q} --output-dir {params.folder:q}"
        " > {log:q} 2>&1"


rule scaling:
    """Throughput and scaling efficiency against GPU count"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",
        code=code("measure", "show"),
    output:
        collect(
            "<results>/figures/{figure}.{suffix}",
            figure=["throughput", "scaling_efficiency"],
            suffix=["svg", "png"],
        ),
    log:
        "<results>/logs/scaling.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m study plot-scaling --study {input.study:q} --throughput {input.throughput:q}"
        " --output-dir {params.folder:q} > {log:q} 2>&1"


rule analyses:
    """Best learning rates, IsoFLOP curves, lengths and ablations, where the grid has them"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",  # changes with every run
        code=code("measure", "estimate", "analysis", "show"),
    output:
        tables=collect("<results>/{name}", name=table_files(ANALYSES)),
        figures=collect(
            "<results>/figures/{name}.{suffix}",
            name=ANALYSES,
            suffix=["svg", "png"],
        ),
    log:
        "<results>/logs/analyses.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=subpath(input.study, parent=True),
    shell:
        "python -m study analyses --study {input.study:q} --figures {params.folder:q}/figures"
        " --output-dir {params.folder:q} > {log:q} 2>&1"


rule scaling_law:
    """Fit the loss as a function of parameters and tokens, if the grid determines it"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",  # changes with every run
        code=code("measure", "analysis", "law"),
    output:
        csv="<results>/scaling_law.csv",
        md="<results>/scaling_law.md",
        figures=collect("<results>/figures/scaling_law.{suffix}", suffix=["svg", "png"]),
    log:
        "<results>/logs/scaling_law.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output[2], parent=True),
    shell:
        "python -m study scaling-law --study {input.study:q} --figures {params.folder:q}"
        " --output {output.csv:q} > {log:q} 2>&1"
