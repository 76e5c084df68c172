"""Results of the questions that a grid asks: learning rates, IsoFLOP curves, lengths, ablations."""
