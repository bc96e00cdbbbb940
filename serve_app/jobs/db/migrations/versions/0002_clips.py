"""Add a column for the clips of known speakers, apart from the request."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("clips", sa.JSON))
