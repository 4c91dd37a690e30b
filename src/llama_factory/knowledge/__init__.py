"""Documents that answers draw on: reading, index, retrieval. Facts that change by the hour."""
