"""run.json and the terminal at the start of an attempt: what runs, and where."""

from dataclasses import asdict

from trainer import host
from trainer.config import RunConfig
from trainer.execution.choices import has_bf16
from trainer.folder.run_file import now
from trainer.folder.software import describe_software
from trainer.loop.session import Session
from trainer.rank_hosts import cores_per_rank
from trainer.records import Attempt, Continued, Layout, RunSummary, UsedChoices
from trainer.world import device_name


def open_journal(session: Session) -> None:
    """Open the output files and announce the run, on the main process."""
    if session.world.is_main:
        summary = _summarize(session)
        session.journal.open(summary, session.earlier.attempts if session.earlier else ())
        _announce(session.config, summary)


def _summarize(session: Session) -> RunSummary:
    """Return run.json as of the start of an attempt."""
    config, world = session.config, session.world
    hosts = {rank.host: rank.address for rank in session.ranks}
    replicas, shards = config.distributed.data_parallel(world.size)
    fingerprint = config.fingerprint(world.size)
    attempt = Attempt(
        attempt=1,  # RunFile numbers it
        start=now(),
        fingerprint=fingerprint,
        gpus=world.size,
        hosts=tuple(hosts),
        first_step=session.start.step + 1,
    )
    return RunSummary(
        status="running",
        id=session.start.run,
        name=config.name,
        params=sum(parameter.numel() for parameter in session.learner.model.parameters()),
        device=config.device,
        gpu_name=device_name(world),
        processor=host.processor_name(),
        gpus=world.size,
        nodes=world.nodes,
        hosts=tuple(hosts),
        addresses=tuple(hosts.values()),
        layout=Layout(dp_replicate=replicas, dp_shard=shards, tp_size=world.tp_size),
        cores_per_rank=cores_per_rank(session.ranks),
        machine_cores=session.load.cores,
        choices=UsedChoices(**asdict(session.learner.choices)),
        **describe_software(),
        fingerprint=fingerprint,
        trajectory=session.start.trajectory,
        content=session.texts.content,
        training_content=session.texts.training_content,
        continued=_continued(session),
        attention_context=session.attention_context,
        steps_done=session.start.step,
        attempts=(attempt,),
    )


def _continued(session: Session) -> Continued | None:
    """Return where the run began: now, or as an earlier attempt has noted."""
    source, earlier = session.source, session.earlier
    if source is None:
        return earlier.continued if earlier is not None and session.start.step > 0 else None
    position = source.position
    return Continued(path=str(source.path), step=position.step, trajectory=position.trajectory)


def _announce(config: RunConfig, summary: RunSummary) -> None:
    """Print model and devices, and warn of what slows the run down."""
    gpus = summary.gpus or 1
    print(
        f"{config.name}: {summary.params:,} parameters on {gpus} x {summary.gpu_name}, "
        f"{config.tokens_per_step(gpus):,} tokens per step",
        flush=True,
    )
    ranks = gpus // (summary.nodes or 1)
    cores = round((summary.cores_per_rank or 1) * ranks)
    problems = [host.find_complaint(config.device, cores, ranks)]
    if config.device == "cpu" and config.distributed.model_dtype == "bf16" and not has_bf16():
        problems.append(
            "distributed.model_dtype = bf16: this processor has no bf16 instructions; fp32 is many "
            "times faster"
        )
    for problem in problems:
        if problem is not None:
            print(f"warning: {problem}", flush=True)
