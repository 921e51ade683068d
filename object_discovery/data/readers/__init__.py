"""Readers of image files, HDF5 files and annotations, and the caches of what is expensive to read."""
