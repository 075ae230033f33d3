"""The vector search engine that Vectorizer Operator runs in its pods."""

__version__ = "0.1.0"
