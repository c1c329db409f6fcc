"""From a photo to the aligned square crop of a face, or of what else a model knows, with the exact map between them."""

from realdrag.align.crop import FACELESS, align
from realdrag.align.detectors import CascadeDetector, Detector, Face, Looked
from realdrag.align.embedded import EmbeddedDetector
from realdrag.align.fan import FanDetector
from realdrag.align.quad import quad_from_box, quad_from_landmarks

__all__ = [
    "FACELESS",
    "CascadeDetector",
    "Detector",
    "EmbeddedDetector",
    "Face",
    "FanDetector",
    "Looked",
    "align",
    "quad_from_box",
    "quad_from_landmarks",
]
