"""Jobs: the manager and its operations, runs and leases, fair queueing, the database (`db/`) and `webhooks/`."""
