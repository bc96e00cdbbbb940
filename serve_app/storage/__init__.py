"""Recordings at rest: blobs, signed uploads, temporary files."""
