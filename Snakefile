"""A scaling study as a table of contents: the requested files, and the stages that create them."""

from study.points import RUN_FOLDER
from study.jobs.workflow import finished_runs, load_workflow

GRID = load_workflow(workflow, config)
STUDY = GRID.study

if workflow.is_main_process:
    from study.jobs.executors import install
    from study.jobs.hooks import hook
    from study.jobs.outdated import mark_outdated
    from study.jobs.working_lock import keep_locks_of_others, work_without_lock

    install(GRID)
    hook(workflow, GRID)
    mark_outdated(workflow, GRID)
    keep_locks_of_others()
    if STUDY.partial:
        work_without_lock()


report: "workflow/report/workflow.rst"


pathvars:
    results=STUDY.folder,
    run=RUN_FOLDER,


rule all:
    """Everything: the tables, the plots and the report"""
    input:
        finished_runs(GRID),
        "<results>/throughput.csv",
        "<results>/throughput.md",
        "<results>/time_estimates.csv",
        "<results>/time_estimates.md",
        "<results>/report.html",
    localrule: True


include: "workflow/rules/data.smk"
include: "workflow/rules/precompile.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/plots.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/autotune.smk"
