"""The tokenizer that the settings name. Imports no torch."""

from trainer.config import TokenizerConfig
from trainer.problems import ConfigError
from trainer.tokens.tokenizer import ByteTokenizer, Tokenizer

VOCABULARY_MULTIPLE = 8
"""A larger `n_words` pads the vocabulary if it is a multiple of this; matmuls need no more."""


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Return the tokenizer that a config names.

    Raises ConfigError if its file or library is missing, or if its V is neither the config's nor
    padded to it. A padded vocabulary has ids that no text contains.
    """
    tokenizer: Tokenizer = ByteTokenizer()
    if config.path is not None:
        from trainer.tokens.tokenizer_files import load_tokenizer  # not needed for bytes

        tokenizer = load_tokenizer(config)
    found, wanted = tokenizer.vocab_size, config.vocab_size
    if wanted != found and not is_padding(found, wanted):
        problem = f"found {found:,} token ids, special ones included"
        expected = f"expected data.tokenizer.n_words = {wanted:,}"
        hint = f"set {found}, or a larger multiple of {VOCABULARY_MULTIPLE} to pad the vocabulary"
        raise ConfigError(config.path or config.name, [f"{problem}; {expected}; {hint}"])
    return tokenizer


def is_padding(vocab_size: int, padded_size: int) -> bool:
    """Say whether a tokenizer's vocabulary may be padded to a size."""
    return padded_size > vocab_size and padded_size % VOCABULARY_MULTIPLE == 0
