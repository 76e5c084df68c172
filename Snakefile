"""A scaling study as a table of contents: the requested files, and the stages that create them."""

from study.points import RUN_FOLDER
from study.jobs.workflow import finished_runs, load_config, manner, mirror_disk

GIVEN = workflow.configfiles, workflow.config_settings.config_args
GRID = load_config(*GIVEN, placing=manner(workflow))
STUDY = GRID.study

if workflow.is_main_process:
    from study.jobs.executors import install, work_without_lock

    install(GRID)
    mirror_disk(GRID)
    if STUDY.partial:
        work_without_lock()


pathvars:
    results=STUDY.folder,
    run=RUN_FOLDER,


localrules:
    all,
    plan,
    study_file,
    throughput,
    time_estimates,
    document,
    document_check,
    loss_curves,
    analyses,
    scaling_law,
    scaling,
    report,
    export,
    evaluate,
    autotune,


onstart:
    from study.jobs.dispatch import start

    start(workflow, GRID)


onerror:
    from study.jobs.after_failure import make_tables

    make_tables(workflow, GRID)


rule all:
    """Everything: the tables, the plots and the report"""
    input:
        finished_runs(GRID),
        "<results>/throughput.csv",
        "<results>/throughput.md",
        "<results>/time_estimates.csv",
        "<results>/time_estimates.md",
        "<results>/report.html",


include: "workflow/rules/data.smk"
include: "workflow/rules/precompile.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/plots.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/autotune.smk"
