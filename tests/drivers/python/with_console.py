"""The admin console with psycopg 3, psycopg2 and asyncpg as they are: transactions, extended protocol, binary results."""

import asyncio
import os

import asyncpg
import psycopg
import psycopg2
from harness import expect

ITEMS = (
    "ACTIVE_SOCKETS CLIENTS CONFIG DATABASES DNS_HOSTS DNS_ZONES EVENTS FDS LISTS MEM PEERS PEER_POOLS PINS PIN_TOTALS "
    "POOLS PREPARED SERVERS SOCKETS STATE STATS STATS_AVERAGES STATS_TOTALS TOTALS USERS VERSION"
).split()
SAME = "CONFIG DATABASES LISTS PEERS STATE USERS VERSION".split()  # they do not change from one look to the next
os.environ["PGDATABASE"] = "pgbouncer"


def with_psycopg():
    for autocommit in (True, False):
        with psycopg.connect(autocommit=autocommit) as db:
            for item in ITEMS:
                ways = [{}, {"binary": True}, {"prepare": True}]
                rows = [db.execute(f"SHOW {item}", **way).fetchall() for way in ways]
                if item in SAME:
                    expect(item, [rows[0]] * 3, rows)
            try:
                db.execute("nonsense", prepare=True)
                expect("an error", True, False)
            except psycopg.errors.ProtocolViolation:
                db.rollback()
            db.execute("PAUSE")
            db.execute("RESUME")
            db.commit()


def with_psycopg2():
    db = psycopg2.connect("")
    cursor = db.cursor()
    for item in ITEMS:
        cursor.execute(f"SHOW {item}")
        cursor.fetchall()
        db.commit()
    db.close()


async def with_asyncpg():
    db = await asyncpg.connect()
    for item in ITEMS:
        await db.fetch(f"SHOW {item}")
    expect("fetchval", await db.fetchval("SHOW VERSION"), (await db.fetchrow("SHOW VERSION"))["version"])
    async with db.transaction():
        await db.execute("PAUSE")
        await db.fetch("RESUME")
    await db.close()


with_psycopg()
with_psycopg2()
asyncio.run(with_asyncpg())
