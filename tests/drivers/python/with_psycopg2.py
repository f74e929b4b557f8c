"""psycopg2: no protocol-level statements, named cursors, transactions begun by the driver, notifications by poll."""

import select
import time

import psycopg2
from harness import COMMON, IDENTITY, LOCK, MY_LOCKS, expect, run_threads
from psycopg2.extras import execute_values


class Client:
    holder = None
    sent = []

    def __init__(self, me):
        self.me = me
        self.sent_to_me = []

    def open(self):
        self.db = psycopg2.connect("")  # not autocommit: the first statement begins a transaction
        with self.db, self.db.cursor() as cursor:
            for setting in self.me.settings:
                cursor.execute(setting)

    def close(self):
        self.db.close()

    def start(self):
        self.listener = psycopg2.connect("")
        self.listener.autocommit = True
        with self.listener.cursor() as cursor:
            cursor.execute(f"listen {COMMON}; listen {self.me.channel}")

    def finish(self):
        wanted = len(Client.sent) + len(self.sent_to_me)
        deadline = time.monotonic() + 10
        while len(self.listener.notifies) < wanted and time.monotonic() < deadline:
            select.select([self.listener], [], [], 0.5)
            self.listener.poll()
        got = [(n.channel, n.payload) for n in self.listener.notifies]
        expect("own channel", [p for c, p in got if c == self.me.channel], self.sent_to_me)
        expect("common channel", sorted(p for c, p in got if c == COMMON), sorted(Client.sent))
        self.listener.close()

    def rows(self, query, params=None):
        with self.db.cursor() as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()

    def one(self, query, params=None):
        return self.rows(query, params)[0][0]

    def run(self, query, params=None):
        with self.db.cursor() as cursor:
            cursor.execute(query, params)

    def identity(self):
        self.db.rollback()
        expect("identity", self.rows(IDENTITY)[0], self.me.identity)
        self.db.commit()

    def check_settings(self, turn):
        self.run("set local work_mem to '1MB'")
        expect("SET LOCAL", self.one("show work_mem"), "1MB")
        self.db.commit()
        self.identity()
        self.run("set timezone to 'Asia/Tokyo'; set app.user_id to '0815'")
        self.db.rollback()
        self.identity()
        self.run("set app.note to 'outer'; savepoint s; set app.note to 'inner'; rollback to s")
        self.db.commit()
        expect("SET after ROLLBACK TO", self.one("show app.note"), "outer")
        self.one("select set_config('app.note', %s, false)", [f"note {self.me.number}"])
        self.db.commit()
        self.identity()
        expect("set_config", self.one("show app.note"), f"note {self.me.number}")
        self.run("reset app.note")
        self.db.commit()
        self.db.set_session(isolation_level="REPEATABLE READ", readonly=True)
        expect("isolation", self.one("show transaction_isolation"), "repeatable read")
        expect("read only", self.one("show transaction_read_only"), "on")
        self.db.rollback()
        self.db.set_session(isolation_level="DEFAULT", readonly="DEFAULT")
        expect("read only", self.one("show transaction_read_only"), "off")

    def check_autocommit(self, turn):
        """Here the driver sends SET SESSION CHARACTERISTICS, which is to stay with this client."""
        self.db.rollback()
        self.db.autocommit = True
        self.db.set_session(isolation_level="SERIALIZABLE", deferrable=True)
        for _ in range(3):
            expect("isolation", self.one("show transaction_isolation"), "serializable")
            expect("default", self.one("show default_transaction_deferrable"), "on")
        self.db.set_session(isolation_level="DEFAULT", deferrable="DEFAULT")
        expect("isolation", self.one("show transaction_isolation"), "read committed")
        self.db.autocommit = False

    def check_role(self, turn):
        self.run(f"set role {self.me.role}")
        self.db.commit()
        for _ in range(3):
            expect("SET ROLE", self.one("select current_user::text"), self.me.role)
            expect("row security", self.one("select array_agg(owner) from secret"), [self.me.number])
            self.db.commit()
        self.run("reset role")
        self.db.commit()

    def check_temporary(self, turn):
        self.run("create temp table scratch as select %s as owner", [self.me.number])
        self.db.commit()
        expect("temporary table", self.one("select array_agg(owner) from scratch"), [self.me.number])
        self.db.commit()
        self.run("drop table scratch")
        self.db.commit()

    def check_advisory(self, turn):
        self.run("select pg_advisory_lock(%s)", [self.me.lock])
        self.db.commit()
        expect("locks of the session", self.one(MY_LOCKS), [self.me.lock])
        self.db.commit()
        expect("unlock", self.one("select pg_advisory_unlock(%s)", [self.me.lock]), True)
        self.db.commit()
        self.run("select pg_advisory_lock(%s)", [LOCK])
        self.db.commit()
        expect("who else has the lock", Client.holder, None)
        Client.holder = self.me.number
        self.identity()
        expect("who has the lock", Client.holder, self.me.number)
        Client.holder = None
        expect("unlock", self.one("select pg_advisory_unlock(%s)", [LOCK]), True)
        self.db.commit()

    def check_named_cursors(self, turn):
        numbers = [(self.me.number, id) for id in range(1, 101)]
        with self.db.cursor("walk") as cursor:
            cursor.itersize = 30
            cursor.execute("select owner, id from item order by id")
            expect("named cursor", list(cursor), numbers)
        self.db.commit()
        held = self.db.cursor("held", withhold=True, scrollable=True)
        held.execute("select owner, id from item order by id")
        expect("in the transaction", held.fetchmany(40), numbers[:40])
        self.db.commit()
        self.identity()
        expect("after it", held.fetchmany(40), numbers[40:80])
        self.db.commit()
        held.scroll(0, mode="absolute")
        expect("from the start again", held.fetchall(), numbers)
        held.close()
        self.db.commit()

    def check_sql_prepare(self, turn):
        self.run(f"prepare plan (int) as select {self.me.number} * 1000 + $1")
        self.db.commit()
        for value in range(3):
            expect("EXECUTE", self.one("execute plan (%s)", [value]), self.me.number * 1000 + value)
            self.db.commit()
        self.run("deallocate plan")
        self.db.commit()

    def check_ddl(self, turn):
        self.run("prepare shape as select * from shape")
        columns = len(self.rows("execute shape")[0])
        self.db.commit()
        self.run(f"alter table shape add column more_{turn} int default {turn}")
        self.db.commit()
        try:
            self.rows("execute shape")
            raise AssertionError("a prepared statement has changed its columns")
        except psycopg2.errors.FeatureNotSupported:  # so says PostgreSQL of a name that SQL prepared
            self.db.rollback()
        self.run("deallocate shape")
        expect("columns", len(self.rows("select * from shape")[0]), columns + 1)
        self.db.commit()

    def check_currval(self, turn):
        db = psycopg2.connect("")
        db.autocommit = True
        with db.cursor() as cursor:
            cursor.execute("select nextval('public.ticket')")
            ticket = cursor.fetchone()
            for _ in range(5):
                cursor.execute("select currval('public.ticket')")
                expect("currval", cursor.fetchone(), ticket)
        db.close()

    def check_values(self, turn):
        notes = [(f"{self.me.number}/{n}",) for n in range(500)]
        with self.db.cursor() as cursor:
            insert = "insert into entry (note) values %s returning owner, note"
            got = execute_values(cursor, insert, notes, page_size=90, fetch=True)
        expect("returned", got, [(self.me.number, note) for (note,) in notes])
        self.db.rollback()
        expect("rows after ROLLBACK", self.one("select count(*) from entry"), 0)

    def check_errors(self, turn):
        with self.db.cursor() as cursor:
            cursor.execute("insert into entry (note) values ('kept')")
            cursor.execute("savepoint s")
            try:
                cursor.execute("insert into entry (note) values ('kept')")
                raise AssertionError("a unique note is there twice")
            except psycopg2.errors.UniqueViolation:
                cursor.execute("rollback to savepoint s")
            cursor.execute("select count(*) from entry")
            expect("rows", cursor.fetchone(), (1,))
        self.db.rollback()

    def check_notify(self, turn):
        message = f"{self.me.number}:{turn}"
        self.run("select pg_notify(%s, %s), pg_notify(%s, %s)", [COMMON, message, self.me.channel, message])
        self.db.commit()
        Client.sent.append(message)
        self.sent_to_me.append(message)
        self.run("select pg_notify(%s, 'never')", [self.me.channel])
        self.db.rollback()


if __name__ == "__main__":
    run_threads(Client)
