"""Report: one page with the tables, the plots and how to read them.

Reads   <results>/study.yaml, the tables and the figures
Writes  report.html, a self-contained page
"""

from pathlib import Path

from study.jobs.workflow import code


rule report:
    """One self-contained page with tables and plots"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",
        estimates="<results>/time_estimates.csv",
        accuracy=[
            "<results>/estimate_check.csv",
            "<results>/leave_one_out.csv",
            "<results>/backtest.csv",
        ],
        figures=rules.loss_curves.output + rules.scaling.output,
        analyses=rules.analyses.output,
        code=code("measure", "estimate", "analysis", "show"),
    output:
        report(
            "<results>/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "Report"},
        ),
    log:
        "<results>/logs/report.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        figures=lambda wildcards, input: Path(input.figures[0]).parent,
    shell:
        "python -m study report --study {input.study:q} --throughput {input.throughput:q}"
        " --estimates {input.estimates:q} --figures {params.figures:q} --output {output:q}"
        " > {log:q} 2>&1"
