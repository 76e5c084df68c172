"""Three sizes of model, and learning rates to sweep: what analyses compare."""

from tests.study.grids import ONE

THREE = {
    "tiny": {"dim": 64, "n_layers": 2, "n_heads": 2},
    "wide": {"dim": 128, "n_layers": 2, "n_heads": 4},
    "deep": {"dim": 128, "n_layers": 4, "n_heads": 4},
}

SIZES = {**ONE, "model": list(THREE)}

RATES = {"optim.lr": [1e-3, 2e-3, 4e-3]}
