"""Files that users drop in -> clean, checked, remembered rows."""
