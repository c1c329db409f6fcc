"""Dragging points by the features of a StyleGAN2 generator, and drags of a face by name."""

from realdrag.drag.drag import LOOPS, at_step, at_strength, choose_block, drag, levels, painter, pictures
from realdrag.drag.moves import MOVES, Move, expand, snap
from realdrag.drag.way import check_strength, way_to

__all__ = [
    "LOOPS",
    "MOVES",
    "Move",
    "at_step",
    "at_strength",
    "check_strength",
    "choose_block",
    "drag",
    "expand",
    "levels",
    "painter",
    "pictures",
    "snap",
    "way_to",
]
