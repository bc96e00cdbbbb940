"""Parts of several fronts: the `Front` type, uploads, transcript responses, readiness."""
