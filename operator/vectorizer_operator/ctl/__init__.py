"""The commands of `vectorizerctl`: validate, render and crd work on files; plan, status and why ask a Kubernetes."""
