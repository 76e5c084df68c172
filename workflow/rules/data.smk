"""Data: text in files of several formats, tokenised once.

Reads   the text files in <source>/ of run.data.root_dir, see trainer/tokens/text_files.py
Writes  the study's corpora, if they are missing
Writes  <results_dir>/shards: token shards, shared by all studies with this results_dir
Writes  <results>/data/<source>.json: the shards of a source, for the training runs; below a digest
        for the cells that read it from another folder or with another tokenizer
"""

import re

from study.jobs.requests import data_is_local, data_resources
from study.jobs.workflow import text_files


rule corpus:
    """Write or download a corpus as JSONL chunks, with whole documents held out"""
    output:
        "{root}/{source}/{source}.val.jsonl",
    log:
        "{root}/{source}.log",
    wildcard_constraints:
        root="|".join(map(re.escape, GRID.data_roots)),
        source="|".join(STUDY.corpora) or "none",
    localrule: data_is_local(GRID)
    conda:
        "../../environment.yml"
    resources:
        **data_resources(GRID),
    shell:
        'python -m study corpus --name {wildcards.source} --output "$(dirname {output:q})"'
        " > {log:q} 2>&1"


rule tokenize:
    """Tokenise a source into memory-mapped shards, keyed by its content"""
    input:
        lambda wildcards: text_files(GRID, wildcards.source),
    output:
        "<results>/data/{source}.json",
    log:
        "<results>/data/{source}.log",
    localrule: data_is_local(GRID)
    conda:
        "../../environment.yml"
    resources:
        **data_resources(GRID),
    params:
        root_dir=lambda wildcards: GRID.sources[wildcards.source].root_dir,
        shards_dir=lambda wildcards: GRID.sources[wildcards.source].shards_dir,
        options=lambda wildcards: GRID.tokenizing_options(wildcards.source),
    shell:
        "python -m trainer.tokens.shards --root-dir {params.root_dir:q}"
        ' --source "$(basename {wildcards.source:q})"'
        " --shards-dir {params.shards_dir:q} {params.options} --output {output:q} > {log:q} 2>&1"
