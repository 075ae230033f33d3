"""Files of points: their formats, read in bounded batches, and the memory of what was loaded. Watches nothing."""
