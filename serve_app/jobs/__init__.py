"""Jobs: their states, their store, their webhooks."""
