"""OctoAI's asynchronous inference API."""
