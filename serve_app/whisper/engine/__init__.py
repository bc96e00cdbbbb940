"""The engine: a scheduler, continuous batching of windows, and the way of each window through its stages."""
