"""The operator: what a VectorizerCluster is, and what brings it about on Kubernetes or on this machine."""

__version__ = "0.1.0"
