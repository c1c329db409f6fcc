"""Dragging points by the features of a StyleGAN2 generator, and drags of a face by name."""

from realdrag.drag.drag import at_step, at_strength, choose_block, drag, pictures
from realdrag.drag.moves import MOVES, Move, expand, snap
from realdrag.drag.way import check_strength, way_to

__all__ = [
    "MOVES",
    "Move",
    "at_step",
    "at_strength",
    "check_strength",
    "choose_block",
    "drag",
    "expand",
    "pictures",
    "snap",
    "way_to",
]
