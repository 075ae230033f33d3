"""What maintains the repository and is in no image."""
