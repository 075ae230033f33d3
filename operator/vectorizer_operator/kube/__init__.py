"""The API server as the operator sees it: a connection, plain REST calls, one cluster observed, a plan executed."""
