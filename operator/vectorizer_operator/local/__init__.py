"""Pods as local processes: what `vectorizerctl local` and the tests' kubelet run instead of containers."""
