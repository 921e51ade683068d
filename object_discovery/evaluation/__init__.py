"""Evaluation protocols and baselines."""
