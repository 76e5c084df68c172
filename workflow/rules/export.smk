"""Export: finished runs as Hugging Face models, and tasks on them. Made when asked for.

Reads   the runs' settings and newest checkpoints
Writes  export/ in each run's folder: weights, config and tokenizer, for transformers
Writes  evaluation/ beside it: the results of lm-evaluation-harness
"""

from study.workflow import EvaluationRequest, data_resource, evaluations, exports

EVALUATION = EvaluationRequest(GRID)


rule export:
    """Every measured cell as a Hugging Face model"""
    input:
        exports(GRID),


rule evaluate:
    """Run lm-evaluation-harness on every exported model"""
    input:
        evaluations(GRID),


rule export_run:
    """Write one run's newest checkpoint as a Hugging Face model"""
    input:
        "<results>/<run>/completed",
    output:
        directory("<results>/<run>/export"),
    log:
        "<results>/<run>/export.log",
    conda:
        "../../environment.yml"
    resources:
        slurm_account=data_resource(GRID, "slurm_account"),
        slurm_partition=data_resource(GRID, "slurm_partition"),
        mem_mb=data_resource(GRID, "mem_mb"),
        runtime=data_resource(GRID, "runtime"),
        cpus_per_task=data_resource(GRID, "cpus_per_task"),
    params:
        run=subpath(input[0], parent=True),
    shell:
        "python -m trainer.export --run {params.run:q} --output {output:q} > {log:q} 2>&1"


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
        slurm_account=EVALUATION.resource("slurm_account"),
        slurm_partition=EVALUATION.resource("slurm_partition"),
        mem_mb=EVALUATION.resource("mem_mb"),
        runtime=EVALUATION.resource("runtime"),
        gres=EVALUATION.resource("gres"),
        cpus_per_task=EVALUATION.resource("cpus_per_task"),
        qos=EVALUATION.resource("qos"),
        constraint=EVALUATION.resource("constraint"),
        slurm_extra=EVALUATION.resource("slurm_extra"),
    params:
        launch=EVALUATION.launch,
    shell:
        "({params.launch} --model_args pretrained={input:q},tokenizer={input:q}"
        " --output_path {output:q}) > {log:q} 2>&1"
