"""Datasets, one file each: a source of scenes and its LightningDataModule."""
