"""Hydra sweeper plugin of thawline."""
