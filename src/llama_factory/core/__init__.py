"""Values, errors, settings and files that every layer shares. Knows nothing of models."""
