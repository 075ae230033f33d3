"""What makes an engine part of a cluster: the rules it has to keep."""
