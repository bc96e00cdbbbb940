"""Stored recordings: blobs, signed uploads, temporary files."""
