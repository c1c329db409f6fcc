"""Motion plus change: an edit carried back into the photo."""

from realdrag.composite.composite import CarryChange, composite

__all__ = ["CarryChange", "composite"]
