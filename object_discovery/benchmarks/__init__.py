"""Benchmarks of the command `object-discovery benchmark NAME`, one module each."""
