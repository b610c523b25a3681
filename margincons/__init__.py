"""Margin consistency: which decisions of a robust classifier are brittle, from one forward pass."""
