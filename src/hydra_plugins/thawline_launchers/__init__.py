"""Hydra launcher plugins of thawline."""
