"""Jobs: the manager, runs and leases, fair queueing. `db/` stores them, `webhooks/` announces them."""
