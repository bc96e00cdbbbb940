"""Webhooks: payloads in each front's format, and the sender."""
