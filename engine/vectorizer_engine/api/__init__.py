"""Qdrant's REST API over the engine's collections."""
