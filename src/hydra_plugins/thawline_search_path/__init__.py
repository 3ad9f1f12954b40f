"""Hydra search path plugin of thawline."""
