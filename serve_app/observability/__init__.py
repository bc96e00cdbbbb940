"""Logs and metrics. Records them without Ray: `deployments/metrics.py` passes the metrics on to Ray."""
