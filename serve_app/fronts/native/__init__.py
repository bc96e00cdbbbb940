"""The service's own API: jobs, their events, and uploads by signed URLs."""
