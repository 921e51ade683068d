"""Conversion of published TFRecord files, without TensorFlow, and of label maps."""
