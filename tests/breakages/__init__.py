"""Deliberate breakages of the product, each with the tests that must turn red; see README.md."""
