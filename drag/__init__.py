"""The DragGAN loop on the features of a StyleGAN2 generator."""

from realdrag.drag.drag import choose_block, drag

__all__ = ["choose_block", "drag"]
