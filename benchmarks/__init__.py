"""Measurements of speed and accuracy, side by side with other engines."""
