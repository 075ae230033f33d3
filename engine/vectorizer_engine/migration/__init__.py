"""From a standalone engine with memory storage to cluster mode: its configuration and its data folder, there and back."""
