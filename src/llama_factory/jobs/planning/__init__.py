"""What training needs and where it fits, before any weight is read: of a model, or of a run."""
