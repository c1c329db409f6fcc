"""Embedded weights, safetensors, with a card each (`*.md`)."""
