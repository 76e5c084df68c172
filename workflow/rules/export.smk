"""Export: finished runs as Hugging Face models, and tasks on them. Runs only on request.

Reads   the runs' settings and newest checkpoints
Writes  export/ in each run's folder: weights, config and tokenizer, for transformers
Writes  evaluation/ next to it: the results of lm-evaluation-harness
"""

from study.jobs.requests import (
    EvaluationRequest,
    ExportRequest,
    data_is_local,
    data_resources,
)
from study.jobs.workflow import evaluations, exports

EXPORT = ExportRequest(GRID)
EVALUATION = EvaluationRequest(GRID)


rule export:
    """Every measured cell as a Hugging Face model"""
    input:
        exports(GRID),
    localrule: True


rule evaluate:
    """Run lm-evaluation-harness on every exported model"""
    input:
        evaluations(GRID),
    localrule: True


rule export_run:
    """Write one run's newest checkpoint as a Hugging Face model"""
    input:
        EXPORT.run,
    output:
        directory("<results>/<run>/export"),
    log:
        "<results>/<run>/export.log",
    localrule: data_is_local(GRID)
    conda:
        "../../environment.yml"
    resources:
        **data_resources(GRID),
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m trainer.commands.export --run {params.run:q} --output {output:q} > {log:q} 2>&1"


rule evaluate_run:
    """Run lm-evaluation-harness on one exported model"""
    input:
        "<results>/<run>/export",
    output:
        directory("<results>/<run>/evaluation"),
    log:
        "<results>/<run>/evaluation.log",
    conda:
        "../../environment.yml"
    threads: EVALUATION.threads
    resources:
        **EVALUATION.resources(),
    params:
        launch=EVALUATION.launch,
        bos=EVALUATION.starts_with_bos,
    shell:
        "({params.launch}"
        " --model_args pretrained={input:q},tokenizer={input:q},add_bos_token={params.bos}"
        " --output_path {output:q}) > {log:q} 2>&1"
