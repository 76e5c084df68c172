# nanoGPT's config of one cell: https://github.com/karpathy/nanoGPT. Its shapes are GPT-2's, with an
# MLP of 4 x n_embd. It takes a step more than max_iters, and divides the accumulation by the GPUs.
out_dir = {{ (run ~ "/nanogpt") | tojson }}
init_from = "scratch"
dataset = {{ (sources | first) | tojson }}
block_size = {{ seq_len }}
batch_size = {{ micro_batch }}
gradient_accumulation_steps = {{ grad_acc_steps * world_size }}
n_layer = {{ n_layers }}
n_head = {{ n_heads }}
n_embd = {{ dim }}
dropout = 0.0
bias = False
learning_rate = {{ lr }}
min_lr = {{ lr * lr_min_ratio }}
decay_lr = True
warmup_iters = {{ warmup }}
lr_decay_iters = {{ steps }}
max_iters = {{ steps - 1 }}
weight_decay = {{ weight_decay }}
beta1 = {{ beta1 }}
beta2 = {{ beta2 }}
grad_clip = {{ clip }}
eval_interval = {{ [eval_every, checkpoint_every] | min }}
eval_iters = 20
always_save_checkpoint = True
log_interval = {{ log_every }}
wandb_log = False
device = "{{ device }}"
backend = "{{ "gloo" if device == "cpu" else "nccl" }}"
dtype = "{{ "bfloat16" if dtype == "bf16" else "float32" }}"
compile = {{ compile }}
