"""The running operator, for what a small world cannot show."""

from tests.e2e.conftest import installation, operator

__all__ = ["installation", "operator"]
