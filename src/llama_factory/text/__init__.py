"""What can be known of a text alone: language, words, similarity, private data. Knows no rows."""
