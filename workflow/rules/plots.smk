"""Plots: figures of finished tables and of the runs' losses.

Reads   <results>/study.yaml, throughput.csv, the tables of the estimates and the runs' files
Writes  figures/loss_vs_steps, loss_vs_tokens, loss_vs_time, loss_vs_flops, time_by_part, throughput,
        scaling_efficiency, variants, mfu, estimates: .svg, .png and .pdf, for two columns of a
        page, and with the ending _column for one
Writes  the tables of the analyses that the grid has, and figures of the same names
Writes  scaling_law.csv, .md and figures/scaling_law, only on request
"""

from study.analysis.series import find_analyses, table_files
from study.jobs.workflow import code
from study.show.forms import OTHER_FORMS

ANALYSES = find_analyses(GRID)


rule loss_curves:
    """Loss against steps, tokens, time and FLOPs, and the time of runs by part, all cells"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",  # changes with every run
        code=code("measure", "show"),
    output:
        report(
            "<results>/figures/loss_vs_steps.svg",
            caption="../report/loss_vs_steps.rst",
            category="Figures",
            labels={"figure": "Loss against steps"},
        ),
        report(
            "<results>/figures/loss_vs_tokens.svg",
            caption="../report/loss_vs_tokens.rst",
            category="Figures",
            labels={"figure": "Loss against tokens"},
        ),
        report(
            "<results>/figures/loss_vs_time.svg",
            caption="../report/loss_vs_time.rst",
            category="Figures",
            labels={"figure": "Loss against wall-clock time"},
        ),
        report(
            "<results>/figures/loss_vs_flops.svg",
            caption="../report/loss_vs_flops.rst",
            category="Figures",
            labels={"figure": "Loss against FLOPs"},
        ),
        report(
            "<results>/figures/time_by_part.svg",
            caption="../report/time_by_part.rst",
            category="Figures",
            labels={"figure": "Time by part"},
        ),
        collect(
            "<results>/figures/{figure}{form}",
            figure=[
                "loss_vs_steps",
                "loss_vs_tokens",
                "loss_vs_time",
                "loss_vs_flops",
                "time_by_part",
            ],
            form=OTHER_FORMS,
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
    """Throughput and efficiency against GPU count, variants, MFU, estimate against measurement"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",
        estimates="<results>/time_estimates.csv",
        accuracy=[
            "<results>/estimate_check.csv",
            "<results>/leave_one_out.csv",
            "<results>/backtest.csv",
        ],
        code=code("measure", "estimate", "show"),
    output:
        report(
            "<results>/figures/throughput.svg",
            caption="../report/throughput_figure.rst",
            category="Figures",
            labels={"figure": "Throughput against GPU count"},
        ),
        report(
            "<results>/figures/scaling_efficiency.svg",
            caption="../report/scaling_efficiency.rst",
            category="Figures",
            labels={"figure": "Scaling efficiency against GPU count"},
        ),
        report(
            "<results>/figures/variants.svg",
            caption="../report/variants.rst",
            category="Figures",
            labels={"figure": "Variants beside their base"},
        ),
        report(
            "<results>/figures/mfu.svg",
            caption="../report/mfu.rst",
            category="Figures",
            labels={"figure": "MFU"},
        ),
        report(
            "<results>/figures/estimates.svg",
            caption="../report/estimates.rst",
            category="Figures",
            labels={"figure": "Estimate against measurement"},
        ),
        collect(
            "<results>/figures/{figure}{form}",
            figure=[
                "throughput",
                "scaling_efficiency",
                "variants",
                "mfu",
                "estimates",
            ],
            form=OTHER_FORMS,
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
        " --estimates {input.estimates:q} --output-dir {params.folder:q} > {log:q} 2>&1"


rule analyses:
    """Best learning rates, IsoFLOP curves, lengths and ablations, where the grid has them"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",  # changes with every run
        code=code("measure", "estimate", "analysis", "show"),
    output:
        tables=report(
            collect("<results>/{name}", name=table_files(ANALYSES)),
            caption="../report/analyses.rst",
            category="Tables",
        ),
        figures=report(
            collect("<results>/figures/{name}.svg", name=ANALYSES),
            caption="../report/analyses.rst",
            category="Figures",
        ),
        forms=collect("<results>/figures/{name}{form}", name=ANALYSES, form=OTHER_FORMS),
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
        csv=report(
            "<results>/scaling_law.csv",
            caption="../report/scaling_law.rst",
            category="Tables",
            labels={"table": "Scaling law"},
        ),
        md="<results>/scaling_law.md",
        figure=report(
            "<results>/figures/scaling_law.svg",
            caption="../report/scaling_law.rst",
            category="Figures",
            labels={"figure": "Scaling law"},
        ),
        forms=collect("<results>/figures/scaling_law{form}", form=OTHER_FORMS),
    log:
        "<results>/logs/scaling_law.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=subpath(output.figure, parent=True),
    shell:
        "python -m study scaling-law --study {input.study:q} --figures {params.folder:q}"
        " --output {output.csv:q} > {log:q} 2>&1"
