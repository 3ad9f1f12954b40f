"""Side by side with the plain way of doing the same work; ``make bench`` runs it and writes docs/performance.md."""
