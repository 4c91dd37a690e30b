"""What runs the model behind the API, one file each."""
