"""The OpenAPI document: its customization, the schemas and the examples of answers."""
