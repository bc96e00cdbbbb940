"""The fault test of durable jobs: processes are killed, receivers fail, and nothing accepted may be lost."""
