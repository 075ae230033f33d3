"""Collections of points: what the API calls, made of segments, indexes and the log."""
