"""Brings rows into an order: which partition each belongs to, where it lies along a curve, and the sort itself."""
