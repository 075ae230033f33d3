"""The commands of `vectorizerctl` that work on files: validate, render, crd. None of them needs a cluster."""
