"""Nearest-neighbour search over a snapshot: index candidates, exact distances, uncovered rows, filters."""
