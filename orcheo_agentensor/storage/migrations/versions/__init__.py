"""The Alembic migrations of the side store; run by `storage.migrate`."""
