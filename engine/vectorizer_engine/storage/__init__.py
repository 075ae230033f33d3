"""What is on disk: the log, the segments, the manifest, the folder that holds them."""
