"""Runs the migrations on the connection that `llmrec.serving.store` hands over."""

from alembic import context

from llmrec.serving.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
