"""Recognition and description of datasets on disk."""
