"""Download the published datasets: what is where, resumable transfers, safe unpacking."""

from object_discovery.download.command import download
from object_discovery.download.sources import SOURCES, Source, describe

__all__ = ["SOURCES", "Source", "describe", "download"]
