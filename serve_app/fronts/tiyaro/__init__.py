"""Tiyaro's asynchronous API."""
