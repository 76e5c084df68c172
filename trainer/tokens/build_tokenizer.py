"""The tokenizer that the settings name. Imports no torch."""

from trainer.config import TokenizerConfig
from trainer.problems import ConfigError
from trainer.tokens.tokenizer import ByteTokenizer, Tokenizer


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Return the tokenizer that a config names.

    Raises ConfigError if its file or library is missing, or if V differs from the config's.
    """
    tokenizer: Tokenizer = ByteTokenizer()
    if config.path is not None:
        from trainer.tokens.tokenizer_files import load_tokenizer  # not needed for bytes

        tokenizer = load_tokenizer(config)
    if tokenizer.vocab_size != config.vocab_size:
        found = f"found {tokenizer.vocab_size:,} token ids, special ones included"
        expected = f"expected data.tokenizer.n_words = {config.vocab_size:,}"
        raise ConfigError(config.path or config.name, [f"{found}; {expected}"])
    return tokenizer
