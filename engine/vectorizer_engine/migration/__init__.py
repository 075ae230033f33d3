"""From a standalone engine with memory storage to cluster mode: configuration and data, there and back."""
