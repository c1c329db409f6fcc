"""From a photo to the aligned square crop of one face, with the exact map between the two."""

from realdrag.align.crop import align
from realdrag.align.detectors import CascadeDetector, Detector, Face
from realdrag.align.embedded import EmbeddedDetector
from realdrag.align.fan import FanDetector
from realdrag.align.quad import quad_from_box, quad_from_landmarks

__all__ = [
    "CascadeDetector",
    "Detector",
    "EmbeddedDetector",
    "Face",
    "FanDetector",
    "align",
    "quad_from_box",
    "quad_from_landmarks",
]
