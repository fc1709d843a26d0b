"""Training: studies from `data` become batches, and batches change the weights of `model`."""
