"""Alembic runs this: the migrations, on the connection that `database` gives."""

from alembic import context

from serve_app.jobs.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
