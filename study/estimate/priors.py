"""What is assumed of each term's coefficient before anything was measured on a cluster."""

from study.cluster_config import ClusterConfig
from study.estimate.regression import Prior

HOST, COMMUNICATION = 1, 2
"""Groups of terms that run at the same time as the rest."""

STEP_PRIORS = {
    # Ratio to the time at the data sheet's rate. Large matmuls reach 50 to 80% of peak, fused
    # attention a quarter.
    "matmul": Prior(1.5, 1.35),
    "attention": Prior(4.0, 2.2),
    "activations": Prior(2.0, 1.8),
    "logits": Prior(2.0, 2.0),
    # Ratio to 1 ms a layer, eager, or 0.4 ms compiled. Wide, as is the constant, so that a small
    # model that waits for its host does not make the other terms look slow.
    "launch": Prior(0.3, 5.0, HOST),
    "optimizer": Prior(1.0, 2.0),
    "link": Prior(1.5, 2.5, COMMUNICATION),
    "network": Prior(2.0, 3.0, COMMUNICATION),
    "latency": Prior(4.0, 4.0, COMMUNICATION),
    "stragglers": Prior(0.5, 2.7),
    "constant": Prior(0.4, 5.0),
}
"""For the terms of `step_terms`, in their order."""

GENERATIONS: dict[tuple[float, float], dict[str, Prior]] = {
    (185, 195): {"matmul": Prior(1.6, 1.3), "attention": Prior(9.0, 2.0)},  # half an MI250X
    (300, 330): {"matmul": Prior(1.35, 1.25), "attention": Prior(3.0, 1.65)},  # A100
    (740, 1000): {"matmul": Prior(1.5, 1.25), "attention": Prior(4.2, 1.6)},  # H100, H200
}
"""Range of peak TFLOP/s -> priors from measured clusters with such GPUs. Large matmuls reach 60 to
75% of an A100's peak and 55 to 70% of an H100's, which its power limits; attention less."""


OF_PROCESSES = {"stragglers": Prior(25.0, 3.0)}
"""On a CPU: the processes of a machine share its memory bandwidth, caches and clock. On two cores a
step of two processes took 12 to 20% longer than of one (results/published/cpu-demo)."""


def step_priors(cluster_config: ClusterConfig) -> list[Prior]:
    """Return the priors of the terms of `step_terms` on a cluster."""
    peak = cluster_config.peak_tflops or 0.0
    known = [priors for (low, high), priors in GENERATIONS.items() if low <= peak <= high]
    if cluster_config.device == "cpu":
        known = [OF_PROCESSES]
    return list({**STEP_PRIORS, **(known[0] if known else {})}.values())


STARTUP_PRIORS = {
    "process": Prior(20.0, 2.0),
    "group": Prior(1.0, 3.0),
    "nodes": Prior(5.0, 3.0),
    "compile": Prior(20.0, 3.0),
}
"""Seconds: one process with imports and data, each doubling of GPUs, several nodes, compile."""

STARTUP_NOISE_SD = 0.1
"""Usual spread of a start-up, in log time: more than that of steps, which are many."""

MEMORY_PRIORS = {
    "states": Prior(1.0, 1.15),
    "activations": Prior(1.0, 1.5),
    "logits": Prior(1.0, 1.5),
    "gathered": Prior(1.0, 1.5),
    "process": Prior(1.0, 2.0),
    "group": Prior(1.0, 2.0),
}
"""For the terms of `memory_terms`, in their order."""

REST_PRIORS = {
    "saves": Prior(1.0, 3.0),
    "evaluations": Prior(1.0, 2.0),
    "end": Prior(2.0, 2.0),
}
"""For the terms of `study.estimate.overhead.rest_terms`, in their order."""

REST_NOISE_SD = 0.3
"""Usual spread of saves, evaluations and the end, in log time: disks are shared and cache."""
