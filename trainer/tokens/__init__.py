"""Text to batches: documents, tokenizers, token shards, and the order in which they are read."""
