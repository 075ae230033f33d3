"""The validating webhook: the cluster rules as an answer to the API server, over TLS, on every replica."""
