"""The only room with SQL: the schema, and every statement the daemon and the commands run."""
