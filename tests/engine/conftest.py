"""The fixtures that every test of the engine may use."""

from tests.engine.fixtures import client, engine, http, make_engine

__all__ = ["client", "engine", "http", "make_engine"]
