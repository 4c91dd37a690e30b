"""Values, errors, settings and files that every layer shares. Knows nothing of models."""

__version__ = "0.1.0"
