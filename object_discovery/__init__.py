"""Unsupervised object discovery in PyTorch Lightning."""
