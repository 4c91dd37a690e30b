"""What can be said of a text alone: language, words, similarity, private data. Knows no rows."""
