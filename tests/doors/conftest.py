"""The running operator, for the doors that it holds."""

from tests.e2e.conftest import installation, operator

__all__ = ["installation", "operator"]
