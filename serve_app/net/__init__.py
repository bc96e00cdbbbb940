"""Outgoing HTTP requests to user-supplied URLs: downloads, and the SSRF guard."""
