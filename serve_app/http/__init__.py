"""HTTP that no front owns: authentication, limits, multipart forms, `Prefer`, server-sent events, errors, OpenAPI."""
