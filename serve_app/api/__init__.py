"""The HTTP fronts."""
