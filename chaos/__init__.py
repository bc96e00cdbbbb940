"""The fault test of durable jobs: processes are killed and webhook receivers fail, and no accepted job may be lost."""
