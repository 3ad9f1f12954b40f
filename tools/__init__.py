"""What the Makefile needs to know about the project's dependencies; no part of the package."""
