"""Motion plus change: an edit carried back into the photo."""

from realdrag.composite.composite import CarryChange, composite, lay_on
from realdrag.composite.motion import Change, find_change

__all__ = ["CarryChange", "Change", "composite", "find_change", "lay_on"]
