"""Other spellings of the settings, one file each."""
