"""Thin Ray Serve glue around `serve_app`, one class a file."""
