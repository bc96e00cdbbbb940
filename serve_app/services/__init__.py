"""The operations that fronts call."""
