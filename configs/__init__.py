"""Presets: one TOML a preset, with the tables `[align] [inversion] [drag] [composite]`."""
