"""Tables: derived only from the study and the runs' files.

Reads   <results>/study.yaml, and metrics.jsonl and run.json in the runs' folders
Writes  throughput.csv, .md: one row for each run
Writes  time_estimates.csv, .md: one row for each cell, measured or not
Writes  estimate_check.csv: cross-validation of the estimates on the measured cells
Writes  leave_one_out.csv: each measured configuration, predicted from the others
Writes  backtest.csv: predictions made before the runs, and their measurements
Writes  the time table in the user's own Markdown file, only on request
"""

import shlex

from study.jobs.workflow import code, finished_runs


rule study_file:
    """Write the study to a file, with its ladder and clusters"""
    output:
        "<results>/study.yaml",
    log:
        "<results>/logs/study_file.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        # A function's value is not searched for wildcards, such as in "${HOME}" or "[0-9]{1,2}".
        text=lambda wildcards: STUDY.to_yaml(),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule plan:
    """Show each cell: what is measured, what will run, its time and its Slurm request"""
    log:
        "<results>/logs/plan.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        # Not from study.yaml, which belongs to the tables: another invocation may be training.
        text=lambda wildcards: STUDY.to_yaml(),
    shell:
        "printf '%s' {params.text:q} | python -m study plan --study /dev/stdin 2>&1 | tee {log:q}"


rule throughput:
    """One row for each run: speed in steady state, utilisation, memory, loss"""
    input:
        study="<results>/study.yaml",
        runs=finished_runs(GRID),
        code=code("measure"),
    output:
        csv=report(
            "<results>/throughput.csv",
            caption="../report/throughput.rst",
            category="Tables",
            labels={"table": "Throughput"},
        ),
        md="<results>/throughput.md",
    log:
        "<results>/logs/throughput.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m study throughput --study {input.study:q} --output {output.csv:q} > {log:q} 2>&1"


rule time_estimates:
    """How long each cell takes: Verified if measured, otherwise Estimated with an interval"""
    input:
        study="<results>/study.yaml",
        throughput="<results>/throughput.csv",
        evidence=[item.file for item in STUDY.evidence],
        code=code("measure", "estimate"),
    output:
        csv=report(
            "<results>/time_estimates.csv",
            caption="../report/time_estimates.rst",
            category="Tables",
            labels={"table": "Time estimates"},
        ),
        md="<results>/time_estimates.md",
        check="<results>/estimate_check.csv",
        left_out="<results>/leave_one_out.csv",
        backtest="<results>/backtest.csv",
    log:
        "<results>/logs/time_estimates.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m study estimate --study {input.study:q} --throughput {input.throughput:q}"
        " --output {output.csv:q} > {log:q} 2>&1"


# Not in study.yaml: naming another file for one invocation makes no table again.
DOCUMENT = f"--file {shlex.quote(STUDY.document)}" if STUDY.document else ""


rule document:
    """Write the time table into the study's Markdown file"""
    input:
        study="<results>/study.yaml",
        estimates="<results>/time_estimates.csv",
        code=code("estimate", "show"),
    log:
        "<results>/logs/document.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        file=DOCUMENT,
    shell:
        "python -m study document --study {input.study:q} --estimates {input.estimates:q}"
        " {params.file} > {log:q} 2>&1"


rule document_check:
    """Exit with 1 if the time table in that file is out of date"""
    input:
        study="<results>/study.yaml",
        estimates="<results>/time_estimates.csv",
        code=code("estimate", "show"),
    log:
        "<results>/logs/document_check.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        file=DOCUMENT,
    shell:
        "python -m study document --study {input.study:q} --estimates {input.estimates:q}"
        " {params.file} --check > {log:q} 2>&1"
