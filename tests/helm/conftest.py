"""What clusters over an object store need."""

from tests.engine.s3 import s3

__all__ = ["s3"]
