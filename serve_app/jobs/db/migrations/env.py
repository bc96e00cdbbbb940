"""Entry point for Alembic: runs the migrations on the connection opened by `engine`."""

from alembic import context

from serve_app.jobs.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
