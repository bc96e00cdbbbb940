"""Who speaks when, and so who said what."""
