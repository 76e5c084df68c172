# torchtitan's config of one cell, for torchtitan 0.3: https://github.com/pytorch/torchtitan. A registry
# of one function, `cell`: Llama 3 of the cell's shape. The tokenizer and the text are torchtitan's own.
from torchtitan.components.optimizer import default_adamw
from torchtitan.models import llama3
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.llama3.config_registry import llama3_debugmodel

DIM, VOCAB = {{ dim }}, {{ vocab_size }}


def model(attn_backend, tp_gemm_backend="default"):
    return llama3.Llama3Model.Config(
        dim=DIM,
        vocab_size=VOCAB,
        tok_embeddings=Embedding.Config(
            num_embeddings=VOCAB, embedding_dim=DIM, param_init=llama3._EMBEDDING_INIT
        ),
        norm=RMSNorm.Config(normalized_shape=DIM, param_init=llama3._NORM_INIT),
        lm_head=Linear.Config(
            in_features=DIM, out_features=VOCAB, param_init=llama3._output_linear_init(DIM)
        ),
        layers=llama3._build_llama3_layers(
            fuse_qkv=True,
            n_layers={{ n_layers }},
            dim=DIM,
            n_heads={{ n_heads }},
            n_kv_heads={{ n_kv_heads }},
            hidden_dim={{ ffn_hidden }},
            rope=ComplexRoPE.Config(
                dim={{ head_dim }},
                max_seq_len={{ seq_len }},
                theta={{ run_config.model.rope_theta }},
            ),
            attn_backend=attn_backend,
            tp_gemm_backend=tp_gemm_backend,
        ),
    )


def cell():
    llama3.llama3_configs["cell"] = model
    config = llama3_debugmodel()
    config.model_spec = llama3.model_registry("cell")
    config.dump_folder = {{ (run ~ "/torchtitan") | tojson }}
    config.loss.loss_fn.global_vocab_size = VOCAB
    config.training.local_batch_size = {{ micro_batch }}
    config.training.global_batch_size = {{ global_batch }}
    config.training.seq_len = {{ seq_len }}
    config.training.steps = {{ steps }}
    config.training.max_norm = {{ clip }}
    config.optimizer = default_adamw(
        lr={{ lr }}, weight_decay={{ weight_decay }}, betas=({{ beta1 }}, {{ beta2 }})
    )
    config.lr_scheduler.warmup_steps = {{ warmup }}
    config.lr_scheduler.decay_ratio = {{ (steps - warmup) / steps }}
    config.lr_scheduler.decay_type = "cosine"
    config.lr_scheduler.min_lr_factor = {{ lr_min_ratio }}
    config.parallelism.tensor_parallel_degree = {{ run_config.distributed.tp_size }}
    config.compile.enable = {{ compile }}
    config.metrics.log_freq = {{ log_every }}
    config.checkpoint.enable = {{ run_config.checkpoint is not none }}
    config.checkpoint.interval = {{ checkpoint_every }}
    config.validator.enable = {{ evaluates }}
    config.validator.freq = {{ eval_every }}
    config.debug.seed = {{ seed }}
    return config
