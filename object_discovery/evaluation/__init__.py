"""Evaluation: named protocols, baselines, scoring and its report."""
