"""psycopg: one login as the connection string of the first argument says; see ../logins."""

import sys

import psycopg

with psycopg.connect(sys.argv[1]) as db:
    sys.exit(db.execute("select current_user").fetchone() != ("app",))
