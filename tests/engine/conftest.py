"""The fixtures that every test of the engine may use."""

from tests.engine.fixtures import client, engine, http, make_engine
from tests.engine.s3 import s3

__all__ = ["client", "engine", "http", "make_engine", "s3"]
