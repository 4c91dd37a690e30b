"""Immutable versions of a model, and which of them is released."""
