"""Outgoing HTTP requests to URLs of users: downloads, and the guard against private addresses."""
