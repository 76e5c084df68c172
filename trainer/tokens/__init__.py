"""From text to batches: documents, tokenizers, token shards, sampling order."""
