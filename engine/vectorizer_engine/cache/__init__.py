"""The memory that grows with data, and the one limit that it lives under."""
