"""The model and its training: layers, loss, optimizers, learning rate."""
