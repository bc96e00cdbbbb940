"""HTTP that no front owns: authentication, limits, forms, `Prefer`, server-sent events, errors, OpenAPI."""
