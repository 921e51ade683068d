"""Datasets: one file each, a `Dataset` and a `LightningDataModule`."""
