"""Readers of image files, HDF5 files and annotations, and on-disk caches of expensive results."""
