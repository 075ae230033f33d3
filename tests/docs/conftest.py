"""What the pages' blocks need besides a machine and a Kubernetes."""

from tests.engine.s3 import s3

__all__ = ["s3"]
