"""Visualization of predictions and datasets: image grids, mask overlays, contact sheets."""

from object_discovery.visualization.background import background_slot
from object_discovery.visualization.contact_sheet import Example, contact_sheet
from object_discovery.visualization.grid import discovery_grid, draw_boxes, picture_grid, plot_discovery, save_png
from object_discovery.visualization.matching import slot_colours
from object_discovery.visualization.overlay import draw_segments
from object_discovery.visualization.palette import MASK_ALPHA, colour_labels, palette

__all__ = [
    "MASK_ALPHA",
    "Example",
    "background_slot",
    "colour_labels",
    "contact_sheet",
    "discovery_grid",
    "draw_boxes",
    "draw_segments",
    "palette",
    "picture_grid",
    "plot_discovery",
    "save_png",
    "slot_colours",
]
