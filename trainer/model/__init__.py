"""The model and what trains it: layers, loss, optimizers, learning rate."""
