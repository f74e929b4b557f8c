"""psycopg 3: statements prepared from the second execution on, pipelines, server-side cursors, COPY, notifications."""

import psycopg
from harness import COMMON, IDENTITY, LOCK, MY_LOCKS, expect, run_threads


class Client:
    holder = None  # the client that has the common advisory lock
    sent = []  # what was sent on the common channel

    def __init__(self, me):
        self.me = me
        self.sent_to_me = []

    def open(self):
        self.db = psycopg.connect(autocommit=True, prepare_threshold=1)
        for setting in self.me.settings:
            self.db.execute(setting)

    def close(self):
        self.db.close()

    def start(self):
        self.listener = psycopg.connect(autocommit=True)
        self.listener.execute(f"listen {COMMON}")
        self.listener.execute(f"listen {self.me.channel}")

    def finish(self):
        """Everything that was committed has arrived, once, in each sender's order, and nothing else."""
        wanted = len(Client.sent) + len(self.sent_to_me)
        got = [(n.channel, n.payload) for n in self.listener.notifies(timeout=10, stop_after=wanted)]
        got += [(n.channel, n.payload) for n in self.listener.notifies(timeout=0)]
        expect("own channel", [p for c, p in got if c == self.me.channel], self.sent_to_me)
        expect("common channel", sorted(p for c, p in got if c == COMMON), sorted(Client.sent))
        mine = [p for c, p in got if c == COMMON and p.startswith(f"{self.me.number}:")]
        expect("order of messages", mine, sorted(mine))
        self.listener.close()

    def one(self, query, params=None, **options):
        return self.db.execute(query, params, **options).fetchone()[0]

    def identity(self):
        expect("identity", self.db.execute(IDENTITY).fetchone(), self.me.identity)

    def check_settings(self, turn):
        with self.db.transaction():
            self.db.execute("set local work_mem to '1MB'")
            expect("SET LOCAL", self.one("show work_mem"), "1MB")
            self.one("select set_config('timezone', %s, true)", ["Asia/Tokyo"])
            expect("set_config local", self.one("show timezone"), "Asia/Tokyo")
        self.identity()
        with self.db.transaction(force_rollback=True):
            self.db.execute("set timezone to 'Asia/Tokyo'")
            self.db.execute("set app.user_id to '0815'")
        self.identity()
        with self.db.transaction():
            self.db.execute("set app.note to 'outer'")
            with self.db.transaction(force_rollback=True):
                self.db.execute("set app.note to 'inner'")
        expect("SET after ROLLBACK TO", self.one("show app.note"), "outer")
        self.one("select set_config('app.note', %s, false)", [f"note {self.me.number}"])
        self.identity()
        expect("set_config", self.one("show app.note"), f"note {self.me.number}")
        self.db.execute("reset app.note; reset work_mem")
        expect("RESET of a custom setting", self.one("show app.note"), "")
        expect("RESET", self.one("show work_mem"), "4MB")
        self.db.execute(self.me.settings[2])
        self.db.execute(f"do $$ begin perform set_config('app.note', 'from {self.me.number}', false); end $$")
        expect("a setting made in DO", self.one("show app.note"), f"from {self.me.number}")
        self.db.execute("reset app.note")

    def check_startup(self, turn):
        """RESET and DISCARD ALL return to what this client started with."""
        options = f"-c search_path={self.me.schema} -c app.note=start"
        with psycopg.connect(autocommit=True, prepare_threshold=1, options=options) as db:
            start = lambda: db.execute("select current_setting('app.note'), min(owner) from item").fetchone()
            for _ in range(3):
                expect("start-up options", start(), ("start", self.me.number))
            db.execute("set app.note to 'changed'")
            db.execute("reset all")
            expect("RESET ALL", start(), ("start", self.me.number))
            db.execute("set app.note to 'changed'")
            db.execute("set search_path to public")
            db.execute("discard all")
            db.prepare_threshold = None  # psycopg does not learn that its statements are gone
            expect("DISCARD ALL", start(), ("start", self.me.number))

    def check_role(self, turn):
        self.db.execute(f"set role {self.me.role}")
        for _ in range(3):
            expect("SET ROLE", self.one("select current_user::text"), self.me.role)
            expect("row security", self.one("select array_agg(owner) from secret"), [self.me.number])
        with self.db.transaction(force_rollback=True):
            self.db.execute("reset role")
        expect("role after ROLLBACK", self.one("select current_user::text"), self.me.role)
        self.db.execute("reset role")

    def check_temporary(self, turn):
        self.db.execute("create temp table scratch (owner int)")
        self.db.execute("insert into scratch values (%s)", [self.me.number])
        expect("temporary table", self.one("select array_agg(owner) from scratch"), [self.me.number])
        self.identity()
        self.db.execute("drop table scratch")
        expect("dropped table", self.one("select to_regclass('scratch')"), None)
        with self.db.transaction():
            self.db.execute("create temp table scratch (owner int) on commit drop")
        expect("ON COMMIT DROP", self.one("select to_regclass('scratch')"), None)

    def check_advisory(self, turn):
        with self.db.transaction():
            self.db.execute("select pg_advisory_lock(%s)", [self.me.lock])
        with self.db.transaction():
            expect("locks of the session", self.one(MY_LOCKS), [self.me.lock])
        expect("unlock", self.one("select pg_advisory_unlock(%s)", [self.me.lock]), True)
        self.db.execute("select pg_advisory_lock(%s)", [LOCK])
        expect("who else has the lock", Client.holder, None)
        Client.holder = self.me.number
        self.identity()
        expect("who has the lock", Client.holder, self.me.number)
        Client.holder = None
        expect("unlock", self.one("select pg_advisory_unlock(%s)", [LOCK]), True)

    def check_cursors(self, turn):
        numbers = [(self.me.number, id) for id in range(1, 101)]
        with self.db.transaction(), self.db.cursor("walk") as cursor:
            cursor.itersize = 30
            cursor.execute("select owner, id from item order by id")
            expect("server-side cursor", list(cursor), numbers)
        with self.db.transaction():
            held = self.db.cursor("held", withhold=True, scrollable=True)
            held.execute("select owner, id from item order by id")
            expect("in the transaction", held.fetchmany(40), numbers[:40])
        self.identity()
        expect("after it", held.fetchmany(40), numbers[40:80])
        held.scroll(0, mode="absolute")
        expect("from the start again", held.fetchall(), numbers)
        held.close()

    def check_sql_prepare(self, turn):
        self.db.execute(f"prepare plan (int) as select {self.me.number} * 1000 + $1")
        for value in range(3):
            expect("EXECUTE", self.one(f"execute plan ({value})"), self.me.number * 1000 + value)
        with self.db.transaction():
            expect("EXECUTE in a transaction", self.one("execute plan (7)"), self.me.number * 1000 + 7)
        self.db.execute("deallocate plan")
        try:
            self.db.execute("execute plan (1)")
            raise AssertionError("a statement is there after DEALLOCATE")
        except psycopg.errors.InvalidSqlStatementName:
            pass

    def check_statements(self, turn):
        for value in range(20):
            row = self.db.execute("select owner, %s::int from item where id = %s", [value, value + 1]).fetchone()
            expect("prepared statement", row, (self.me.number, value))
            wanted = str(self.me.number * value)
            expect("another", self.one("select (%s::int * %s::int)::text", [self.me.number, value]), wanted)
        for bad in range(3):
            try:
                self.db.execute("select 1 / %s::int", [0], prepare=True)
                raise AssertionError("a division by zero has a result")
            except psycopg.errors.DivisionByZero:
                pass
        expect("after errors", self.one("select 12 / %s::int", [4], prepare=True), 3)

    def check_ddl(self, turn):
        for _ in range(3):
            columns = len(self.db.execute("select * from shape").fetchone())
        self.db.execute(f"alter table shape add column more_{turn} int default {turn}")
        try:
            row = self.db.execute("select * from shape").fetchone()
        except psycopg.errors.FeatureNotSupported:  # direct: psycopg leaves this to the application
            row = self.db.execute("select * from shape", prepare=False).fetchone()
        expect("columns", len(row), columns + 1)
        expect("the first of them", row[0], self.me.number)
        with psycopg.connect(autocommit=True, prepare_threshold=0) as fresh:
            fresh.execute(self.me.settings[0])
            expect("columns for a new client", len(fresh.execute("select * from shape").fetchone()), columns + 1)
        self.close()  # and so to a connection without the old statement
        self.open()

    def check_currval(self, turn):
        with psycopg.connect(autocommit=True) as db:
            ticket = db.execute("select nextval('public.ticket')").fetchone()
            for _ in range(5):
                expect("currval", db.execute("select currval('public.ticket')").fetchone(), ticket)
            expect("lastval", db.execute("select lastval()").fetchone(), ticket)

    def check_pipeline(self, turn):
        with self.db.pipeline():
            cursors = [self.db.execute("select owner, %s::int from item where id = 1", [n]) for n in range(30)]
        expect("pipeline", [c.fetchone() for c in cursors], [(self.me.number, n) for n in range(30)])
        try:
            with self.db.pipeline():
                self.db.execute("insert into entry (note) values ('undone')")
                self.db.execute("select 1 / %s::int", [0])
                self.db.execute("select 1")
            raise AssertionError("an error in a pipeline is lost")
        except psycopg.errors.DivisionByZero:
            pass
        expect("rows of the failed pipeline", self.one("select count(*) from entry"), 0)

    def check_copy(self, turn):
        with self.db.cursor() as cursor:
            with cursor.copy("copy entry (note) from stdin") as copy:
                for n in range(500):
                    copy.write_row([f"{self.me.number}/{n}"])
            expect("rows in", cursor.rowcount, 500)
            with cursor.copy("copy (select owner, note from entry order by id) to stdout") as copy:
                copy.set_types(["int4", "text"])
                rows = list(copy.rows())
            expect("rows out", rows, [(self.me.number, f"{self.me.number}/{n}") for n in range(500)])
            cursor.execute("truncate entry")
            try:
                with cursor.copy("copy entry (id) from stdin") as copy:
                    copy.write(b"no number\n")
                    copy.write(b"1\n" * 10000)
                raise AssertionError("COPY took a word for a number")
            except psycopg.errors.InvalidTextRepresentation:
                pass
        expect("rows of the failed COPY", self.one("select count(*) from entry"), 0)

    def check_notify(self, turn):
        for n in range(3):
            message = f"{self.me.number}:{turn}:{n}"
            with self.db.transaction():
                self.db.execute("select pg_notify(%s, %s)", [COMMON, message])
                self.db.execute("select pg_notify(%s, %s)", [self.me.channel, message])
            Client.sent.append(message)
            self.sent_to_me.append(message)
        with self.db.transaction(force_rollback=True):
            self.db.execute("select pg_notify(%s, 'never')", [self.me.channel])


if __name__ == "__main__":
    run_threads(Client)
