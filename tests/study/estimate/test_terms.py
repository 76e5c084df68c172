"""The terms of a step's time and memory, worked by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest

from study.cluster_config import ClusterConfig
from study.estimate.terms import DataSheet, data_sheet, memory_terms, position, step_terms
from study.workload import Workload
from tests.study.estimate.workloads import SMALL
from trainer.model.optimizers import OptimizerCosts

UNIT = DataSheet(1.0, 1.0, 1.0, 1.0, known=True)


@pytest.mark.parametrize(
    ("given", "sheet"),
    [
        ({}, (5e10, 1e10, 5e9, 5e8)),
        # of 1 PFLOP/s: 1/250 to memory, and a tenth of each to the next
        ({"peak_tflops": 1000.0}, (1e15, 4e12, 4e11, 4e10)),
        ({"peak_tflops": 1000.0, "memory_tb_s": 3.0}, (1e15, 3e12, 3e11, 3e10)),
        ({"peak_tflops": 1000.0, "link_gb_s": 450.0}, (1e15, 4e12, 4.5e11, 4.5e10)),
        ({"peak_tflops": 1000.0, "network_gb_s": 50.0}, (1e15, 4e12, 4e11, 5e10)),
        ({"network_gb_s": 1.0, "memory_tb_s": 0.2}, (5e10, 2e11, 5e9, 1e9)),
    ],
)
def test_rates_that_are_not_given_follow_from_the_others(
    given: dict[str, float], sheet: tuple[float, ...]
) -> None:
    found = data_sheet(ClusterConfig(gpu_name="X", gpus_per_node=8, **given))
    rates = (found.flops, found.memory_bytes, found.link_bytes, found.network_bytes)
    assert rates == pytest.approx(sheet)
    assert found.known == ("peak_tflops" in given)


def test_terms_by_hand() -> None:
    """27.5M on 8 GPUs: 16,384 tokens a GPU, at one FLOP and one byte a second."""
    terms = step_terms(SMALL, UNIT)
    assert terms["matmul"] == 6 * 27_403_776 * 16_384
    assert terms["attention"] == 6 * 8 * 2048 * 512 * 16_384
    # 34 bytes a layer, token and unit of width, written and read, once if they are fused
    assert terms["activations"] == 3.5 * 2 * 34 * 8 * 512 * 16_384
    fused = step_terms(replace(SMALL, compiled=True), UNIT)
    assert fused["activations"] == 2 * 34 * 8 * 512 * 16_384
    # 1 ms of launches a layer, 0.4 ms if compiled; and the forward ones again with checkpointing
    assert (terms["launch"], fused["launch"]) == pytest.approx((8e-3, 3.2e-3))
    full = step_terms(replace(SMALL, recompute="full"), UNIT)
    assert full["launch"] == pytest.approx(8e-3 * 4 / 3)
    assert full["attention"] == terms["attention"] * 16 / 12
    assert full["matmul"] == terms["matmul"] + 2 * (27_403_776 - 258 * 512) * 16_384
    # the forward ones of three passes again, which selective checkpointing does for these alone
    selective = step_terms(replace(SMALL, recompute="selective"), UNIT)
    for again in (full, selective):
        assert again["activations"] == pytest.approx(terms["activations"] * 4 / 3)
    assert selective["attention"] == terms["attention"]
    # in fp32, written and read, forward and backward
    assert terms["logits"] == 4 * 4 * 258 * 16_384
    # a hundredth of the matmuls for each of three doublings
    assert terms["stragglers"] == pytest.approx(0.03 * terms["matmul"])
    assert step_terms(replace(SMALL, gpus=1), UNIT)["stragglers"] == 0
    assert terms["constant"] == 5e-3
    assert terms["optimizer"] == 28 * 27_535_872
    held = step_terms(replace(SMALL, shard=4, tensor_parallel=2), UNIT)
    assert held["optimizer"] == terms["optimizer"] / 8
    leaner = step_terms(replace(SMALL, kept_share=0.75), UNIT)
    assert leaner["activations"] == 0.75 * terms["activations"]
    muon = replace(SMALL, optimizer=OptimizerCosts(state_bytes=4, flops=100))
    assert step_terms(muon, UNIT)["optimizer"] == 20 * 27_535_872
    assert step_terms(muon, UNIT)["matmul"] - terms["matmul"] == 100 * 27_535_872
    # ring all-reduce of fp32 gradients inside the node
    assert terms["link"] == 2 * 7 / 8 * 4 * 27_535_872
    assert terms["network"] == 0


def test_traffic_of_hybrid_sharding_by_hand() -> None:
    """16 GPUs in nodes of 4 that hold a copy each, against one copy over all of them."""
    sheet = replace(UNIT, link_bytes=100.0, network_bytes=10.0)
    four = replace(SMALL, gpus=16, gpus_per_node=4)
    hybrid = step_terms(replace(four, shard=4), sheet)
    full = step_terms(replace(four, shard=16), sheet)
    params = 27_535_872
    # two gathers and a scatter of bf16 inside the node; of its quarter, an all-reduce over 4 copies
    assert hybrid["link"] == pytest.approx(3 * 2 * params * 3 / 4 / 100)
    assert hybrid["network"] == pytest.approx(2 * 2 * params / 4 * 3 / 4 / 10)
    # a node's four adapters carry one copy
    assert full["network"] == pytest.approx(3 * 2 * params * 15 / 16 / 40)
    assert full["link"] == 0
    # each of two rings through a node has half of them, for half the weights; and in each of 8
    # layers 8 times the activations between the two GPUs that split a matrix
    split = step_terms(replace(four, shard=8, tensor_parallel=2), sheet)
    assert split["network"] == pytest.approx(3 * 2 * params / 2 * 7 / 8 / 20)
    assert split["link"] == pytest.approx(8 * 8 * 2 * 16_384 * 512 / 2 / 100)
    # one step of a ring for each further GPU, for three messages a layer
    assert full["latency"] == pytest.approx(3 * 8 * 15 * 5e-6)
    assert hybrid["latency"] == pytest.approx((3 * 8 * 3 + 2 * 8 * 3) * 5e-6)


def test_traffic_of_copies_by_hand() -> None:
    """An all-reduce of fp32 gradients: buckets of 25 MiB in a tree, and all of it in a ring."""
    sheet = replace(UNIT, link_bytes=100.0, network_bytes=10.0)
    one_node = step_terms(SMALL, sheet)
    gradients = 4 * 27_535_872
    assert one_node["latency"] == pytest.approx(2 * gradients / (25 * 2**20) * 3 * 5e-6)
    # A small model has less than one bucket.
    assert step_terms(replace(SMALL, params=10**6), sheet)["latency"] == pytest.approx(6 * 5e-6)
    # Two nodes: through the adapters of 8 GPUs, but no faster than inside a node.
    two = replace(SMALL, gpus=16)
    sent = 2 * gradients * 15 / 16
    assert step_terms(two, sheet)["network"] == pytest.approx(sent / 80)
    assert step_terms(two, replace(sheet, network_bytes=20.0))["network"] == sent / 100
    assert step_terms(two, sheet)["link"] == 0
    # A copy over two nodes has one adapter for each of its matrices' parts at least.
    split = replace(SMALL, gpus=16, gpus_per_node=4, tensor_parallel=8)
    assert step_terms(split, sheet)["network"] == pytest.approx(2 * gradients / 8 / 2 / 10)
    # Shards of four groups of two leave a node of four GPUs.
    groups = replace(SMALL, gpus=8, gpus_per_node=4, shard=4, tensor_parallel=2)
    assert step_terms(groups, sheet)["network"] > 0
    assert step_terms(replace(groups, gpus_per_node=8), sheet)["network"] == 0


def test_terms_of_several_micro_batches() -> None:
    """Gradients are all-reduced and applied once; shards and parts exchange each time."""
    once, thrice = (step_terms(replace(SMALL, grad_acc_steps=n), UNIT) for n in (1, 3))
    for name in ("matmul", "attention", "activations", "logits", "launch", "stragglers"):
        assert thrice[name] == pytest.approx(3 * once[name]), name
    for name in ("link", "latency", "optimizer", "constant"):
        assert thrice[name] == once[name], name
    sharded = [step_terms(replace(SMALL, grad_acc_steps=n, shard=8), UNIT) for n in (1, 3)]
    for name in ("link", "latency"):
        assert sharded[1][name] == pytest.approx(3 * sharded[0][name]), name
    split = [step_terms(replace(SMALL, grad_acc_steps=n, tensor_parallel=8), UNIT) for n in (1, 3)]
    assert split[1]["link"] == pytest.approx(3 * split[0]["link"])


def test_communication_does_not_depend_on_the_batch() -> None:
    once, twice = (
        step_terms(replace(SMALL, gpus=64, shard=64, batch_size=batch), UNIT) for batch in (1, 2)
    )
    assert twice["matmul"] == 2 * once["matmul"]
    for name in ("link", "network", "latency"):
        assert twice[name] == once[name]


def test_a_sliding_window_reduces_the_keys_of_attention() -> None:
    """256 keys per token except in the first 256, instead of 1,024: 256 - 256^2 / 4096 = 240."""
    windowed = Workload(**{**SMALL.__dict__, "sliding_window": 256})
    terms = step_terms(windowed, UNIT)
    assert terms["attention"] == 12 * 8 * 512 * 240 * 16_384
    assert terms | {"attention": 0} == step_terms(SMALL, UNIT) | {"attention": 0}


def test_memory_by_hand() -> None:
    terms = memory_terms(SMALL)
    assert terms["states"] == 16 * 27_535_872 / 2**30
    assert terms["activations"] == 34 * 8 * 512 * 16_384 / 2**30
    # in bf16 and in fp32, each with its gradient
    assert terms["logits"] == 12 * 258 * 16_384 / 2**30
    assert terms["gathered"] == 0
    chunked = memory_terms(replace(SMALL, loss_chunk=4096))
    assert chunked["logits"] == terms["logits"] / 4
    assert memory_terms(replace(SMALL, loss_chunk=10**6))["logits"] == terms["logits"]
    leaner = memory_terms(replace(SMALL, kept_share=0.75))
    assert leaner["activations"] == 0.75 * terms["activations"]
    # of sharded weights, a quarter of the blocks and both matrices of the vocabulary
    sharded = memory_terms(replace(SMALL, shard=8))
    vocabulary = 27_535_872 - 27_403_776 + 258 * 512
    used = (27_403_776 - 258 * 512) / 4 + vocabulary
    assert sharded["gathered"] == pytest.approx(4 * used / 2**30)
    assert sharded["states"] == terms["states"] / 8
    # each GPU of four has a quarter of every matrix and of the activations
    split = memory_terms(replace(SMALL, tensor_parallel=4))
    for name in ("states", "activations", "logits"):
        assert split[name] == terms[name] / 4
    # half is kept; or of each layer its input, 2 of 34 bytes, and the whole of the one at work
    selective, full = (memory_terms(replace(SMALL, recompute=r)) for r in ("selective", "full"))
    assert selective["activations"] == terms["activations"] / 2
    assert full["activations"] == (8 * 2 + 34) * 512 * 16_384 / 2**30
    assert (terms["process"], terms["group"]) == (0.4, 0.05)
    assert memory_terms(replace(SMALL, gpus=1))["group"] == 0
    # Of a model of one layer, no more is in use than all of it.
    single = replace(SMALL, n_layers=1, shard=8)
    assert memory_terms(single)["gathered"] == 4 * 27_535_872 / 2**30


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        ({"params": 4 * 27_535_872}, math.log(4)),
        ({"gpus": 32}, math.log(4) / 2),
        ({"seq_len": 1024, "batch_size": 16}, math.log(2)),
        ({"batch_size": 2}, math.log(4)),
        ({"grad_acc_steps": 4}, math.log(4) / 2),
        ({"tensor_parallel": 4}, math.log(4) / 2),
        ({"recompute": "full"}, 1.3),
        ({"compiled": True}, 1.0),
        ({"value_bytes": 4}, 1.0),
        pytest.param({"shard": 8}, 1.0, id="sharded over all"),
        pytest.param({"shard": 2}, math.sqrt(2), id="sharded over some"),
        pytest.param(
            {"shard": 4, "tensor_parallel": 2},
            math.hypot(1.0, math.log(2) / 2),
            id="sharded over all groups",
        ),
        ({"unseen": "another"}, 0.0),
    ],
)
def test_how_far_a_workload_is_from_another(change: dict[str, Any], apart: float) -> None:
    changed = position(replace(SMALL, **change))
    assert math.dist(changed, position(SMALL)) == pytest.approx(apart)
