"""`llama-factory data ...`: look at rows, clean them, decide about them. No model is loaded."""
