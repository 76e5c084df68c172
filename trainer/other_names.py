"""What other programs call the settings of a run: nanoGPT, torchtitan, transformers, litgpt.

An unknown key with one of these names gets the right one in its message; none of them is accepted.
"""

from collections.abc import Mapping


def names(keys: Mapping[str, str]) -> dict[str, str]:
    """Return other name -> key, from key -> its other names, separated by spaces."""
    return {name: key for key, others in keys.items() for name in others.split()}


RUN = names(
    {
        "steps": "max_steps num_steps total_steps train_steps training_steps iterations max_iters "
        "num_iterations epochs num_train_epochs",
        "grad_acc_steps": "gradient_accumulation_steps gradient_accumulation grad_accum "
        "grad_accum_steps accumulate_grad_batches",
        "dump_dir": "output_dir out_dir run_dir dump_folder",
        "seed": "random_seed",
        "optim": "optimizer optimizers",
        "distributed": "parallelism training",
        "checkpoint": "checkpointing save",
        "eval": "evaluation",
    }
)

MODEL = names(
    {
        "dim": "hidden_size d_model n_embd embed_dim emb_dim width model_dim",
        "n_layers": "n_layer num_layers num_hidden_layers layers depth",
        "n_heads": "n_head num_heads num_attention_heads heads",
        "n_kv_heads": "n_kv_head num_kv_heads num_key_value_heads n_query_groups kv_heads",
        "head_dim": "head_size d_head",
        "rope_theta": "rope_base theta",
        "rope_scaling": "rope_parameters",
        "pos_embed": "position_embedding position_embedding_type positional_embedding",
        "norm_type": "norm normalization norm_class norm_class_name",
        "norm_eps": "eps layer_norm_eps rms_norm_eps",
        "qk_norm": "use_qk_norm qk_layernorm norm_qk",
        "activation": "hidden_act activation_function act_fn mlp_class_name",
        "weight_tying": "tie_word_embeddings tie_embeddings tied_embeddings",
        "sliding_window": "window window_size attention_window",
        "ffn_dim_multiplier": "intermediate_size ffn_dim hidden_dim d_ff",
        "init_base_std": "initializer_range init_std",
    }
)

OPTIM = names(
    {
        "lr": "learning_rate max_lr peak_lr base_lr",
        "warmup": "warmup_steps warmup_iters num_warmup_steps lr_warmup_steps",
        "lr_min_ratio": "min_lr min_lr_ratio lr_min",
        "scheduler": "schedule lr_schedule lr_scheduler lr_scheduler_type",
        "clip": "grad_clip clip_grad max_grad_norm max_norm gradient_clipping gradient_clip_val",
        "weight_decay": "wd decay",
        "beta1": "betas adam_beta1",
        "beta2": "adam_beta2",
        "epsilon": "eps adam_eps adam_epsilon",
        "name": "type optimizer optimizer_type",
    }
)

DISTRIBUTED = names(
    {
        "fsdp_type": "fsdp sharding sharding_strategy",
        "dp_shard": "data_parallel_shard_degree",
        "dp_replicate": "data_parallel_replicate_degree",
        "tp_size": "tp tensor_parallel tensor_parallel_size tensor_parallel_degree",
        "model_dtype": "dtype precision mixed_precision mixed_precision_param",
        "reduce_dtype": "mixed_precision_reduce",
        "compile": "torch_compile",
        "attention": "attn attn_implementation attention_backend attn_backend",
        "activation_checkpointing": "gradient_checkpointing activation_checkpoint recompute",
        "float8_recipe": "float8 fp8",
        "threads": "num_threads n_threads",
    }
)

TOKENIZER = names({"path": "file tokenizer_path model tokenizer_file", "n_words": "vocab_size"})

DATA = names(
    {
        "root_dir": "path data_dir data_path dataset_path dir",
        "sources": "source dataset datasets",
        "batch_size": "local_batch_size micro_batch_size per_device_train_batch_size mbs",
        "seq_len": "seq_length sequence_length max_seq_len max_seq_length context_length "
        "block_size max_length",
        "prefetch_size": "prefetch prefetch_factor",
    }
)

LOGGING = names({"freq": "log_freq log_every log_interval logging_steps every interval"})

CHECKPOINT = names(
    {
        "dump.every": "every interval save_every save_steps save_interval",
        "dump.keep": "keep keep_latest_k save_total_limit",
        "path": "dir folder",
        "init_ckpt_path": "init_from load_from initial_load_path",
        "async_save": "async async_mode",
    }
)

SAVE = names({"every": "freq interval steps", "keep": "max_to_keep keep_last keep_latest_k"})
