"""What people look at: pictures, the page of a version, lists of versions. Measures nothing."""
