"""What `python -m object_discovery.benchmark` measures, one file a benchmark."""
