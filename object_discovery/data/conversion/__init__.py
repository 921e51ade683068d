"""Conversion of published TFRecord files, without TensorFlow."""
