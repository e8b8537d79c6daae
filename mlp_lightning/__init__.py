"""Multilayer perceptrons whose gradients are derived by hand, trained under Lightning."""
