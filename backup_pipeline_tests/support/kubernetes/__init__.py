"""Kubernetes without a cluster: the published schemas, an API server of one namespace, and pods that are processes."""
