"""A workload worked out by hand."""

from study.workload import Workload

SMALL = Workload(
    params=27_535_872,
    matmul_params=27_403_776,  # without the look-up of 258 x 512
    n_layers=8,
    dim=512,
    attention_dim=512,
    vocab_size=258,
    seq_len=2048,
    batch_size=8,
    grad_acc_steps=1,
    gpus=8,
    gpus_per_node=8,
)
