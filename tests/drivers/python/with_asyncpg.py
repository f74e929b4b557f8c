"""asyncpg: a statement cache, prepared statements kept over transactions, its pool's reset, COPY, listeners, types."""

import asyncio

import asyncpg
from harness import COMMON, IDENTITY, LOCK, MY_LOCKS, expect, run_tasks


class Client:
    holder = None
    sent = []

    def __init__(self, me):
        self.me = me
        self.sent_to_me = []
        self.heard = []

    async def open(self):
        self.db = await asyncpg.connect()
        for setting in self.me.settings:
            await self.db.execute(setting)

    async def close(self):
        await self.db.close(timeout=10)

    async def start(self):
        self.listener = await asyncpg.connect()
        for channel in (COMMON, self.me.channel):
            await self.listener.add_listener(channel, lambda db, pid, channel, text: self.heard.append((channel, text)))

    async def finish(self):
        wanted = len(Client.sent) + len(self.sent_to_me)
        for _ in range(200):
            if len(self.heard) >= wanted:
                break
            await asyncio.sleep(0.05)
        expect("own channel", [p for c, p in self.heard if c == self.me.channel], self.sent_to_me)
        expect("common channel", sorted(p for c, p in self.heard if c == COMMON), sorted(Client.sent))
        await self.listener.close(timeout=10)

    async def identity(self):
        expect("identity", tuple(await self.db.fetchrow(IDENTITY)), self.me.identity)

    async def check_settings(self, turn):
        async with self.db.transaction():
            await self.db.execute("set local work_mem to '1MB'")
            expect("SET LOCAL", await self.db.fetchval("show work_mem"), "1MB")
        await self.identity()
        try:
            async with self.db.transaction():
                await self.db.execute("set timezone to 'Asia/Tokyo'")
                await self.db.fetchval("select set_config($1, $2, false)", "app.user_id", "0815")
                raise LookupError
        except LookupError:
            await self.identity()
        await self.db.fetchval("select set_config('app.note', $1, false)", f"note {self.me.number}")
        await self.identity()
        expect("set_config", await self.db.fetchval("show app.note"), f"note {self.me.number}")
        expect("the driver's view", self.db.get_settings().TimeZone, self.me.zone)
        await self.db.execute("reset app.note")

    async def check_startup(self, turn):
        start = {"search_path": self.me.schema, "app.note": "start"}
        db = await asyncpg.connect(server_settings=start)
        state = "select current_setting('app.note'), min(owner) from item"
        for _ in range(3):
            expect("start-up parameters", tuple(await db.fetchrow(state)), ("start", self.me.number))
        await db.execute("set search_path to public; set app.note to 'changed'; create temp table scratch ()")
        await db.reset()
        expect("after reset()", tuple(await db.fetchrow(state)), ("start", self.me.number))
        await db.close()

    async def check_role(self, turn):
        await self.db.execute(f"set role {self.me.role}")
        for _ in range(3):
            expect("SET ROLE", await self.db.fetchval("select current_user::text"), self.me.role)
            expect("row security", await self.db.fetchval("select array_agg(owner) from secret"), [self.me.number])
        await self.db.execute("reset role")

    async def check_temporary(self, turn):
        await self.db.execute("create temp table scratch (owner int)")
        await self.db.execute("insert into scratch values ($1)", self.me.number)
        expect("temporary table", await self.db.fetchval("select array_agg(owner) from scratch"), [self.me.number])
        await self.identity()
        await self.db.execute("drop table scratch")

    async def check_advisory(self, turn):
        async with self.db.transaction():
            await self.db.execute("select pg_advisory_lock($1)", self.me.lock)
        async with self.db.transaction():
            expect("locks of the session", await self.db.fetchval(MY_LOCKS), [self.me.lock])
        expect("unlock", await self.db.fetchval("select pg_advisory_unlock($1)", self.me.lock), True)
        await self.db.execute("select pg_advisory_lock($1)", LOCK)
        expect("who else has the lock", Client.holder, None)
        Client.holder = self.me.number
        await self.identity()
        expect("who has the lock", Client.holder, self.me.number)
        Client.holder = None
        expect("unlock", await self.db.fetchval("select pg_advisory_unlock($1)", LOCK), True)

    async def check_cursors(self, turn):
        numbers = [(self.me.number, id) for id in range(1, 101)]
        async with self.db.transaction():
            query = "select owner, id from item where id > $1 order by id"
            expect("cursor", [tuple(r) async for r in self.db.cursor(query, 0, prefetch=30)], numbers)
            cursor = await self.db.cursor(query, 10)
            await cursor.forward(10)
            expect("after forward", [tuple(r) for r in await cursor.fetch(5)], numbers[20:25])
        await self.db.execute("declare held cursor with hold for select owner, id from item order by id")
        await self.identity()
        expect("cursor with hold", [tuple(r) for r in await self.db.fetch("fetch 40 held")], numbers[:40])
        await self.db.execute("close held")

    async def check_sql_prepare(self, turn):
        await self.db.execute(f"prepare plan (int) as select {self.me.number} * 1000 + $1")
        for value in range(3):
            got = await self.db.fetchval(f"execute plan ({value})")
            expect("EXECUTE", got, self.me.number * 1000 + value)
        await self.db.execute("deallocate plan")

    async def check_statements(self, turn):
        kept = await self.db.prepare("select owner, $1::int from item where id = 1")
        async with self.db.transaction():
            expect("in a transaction", tuple(await kept.fetchrow(1)), (self.me.number, 1))
        for value in range(20):
            await self.identity()
            expect("kept statement", tuple(await kept.fetchrow(value)), (self.me.number, value))
            got = await self.db.fetchval("select ($1::int * $2::int)::text", self.me.number, value)
            expect("cached statement", got, str(self.me.number * value))
        expect("parameters", [t.name for t in kept.get_parameters()], ["int4"])
        for _ in range(3):
            try:
                await self.db.fetchval("select 1 / $1::int", 0)
                raise AssertionError("a division by zero has a result")
            except asyncpg.DivisionByZeroError:
                pass
        await self.db.executemany("insert into entry (note) values ($1)", [(str(n),) for n in range(100)])
        expect("executemany", await self.db.fetchval("select count(*) from entry"), 100)
        await self.db.execute("truncate entry")

    async def check_ddl(self, turn):
        """Outside a transaction the driver prepares again by itself."""
        for _ in range(3):
            columns = len(await self.db.fetchrow("select * from shape"))
        await self.db.execute(f"alter table shape add column more_{turn} int default {turn}")
        row = await self.db.fetchrow("select * from shape")
        expect("columns", len(row), columns + 1)
        expect("the new one", row[f"more_{turn}"], turn)
        fresh = await asyncpg.connect()
        await fresh.execute(self.me.settings[0])
        expect("columns for a new client", len(await fresh.fetchrow("select * from shape")), columns + 1)
        await fresh.close()

    async def check_currval(self, turn):
        db = await asyncpg.connect()
        ticket = await db.fetchval("select nextval('public.ticket')")
        for _ in range(5):
            expect("currval", await db.fetchval("select currval('public.ticket')"), ticket)
        await db.close()

    async def check_copy(self, turn):
        rows = [(f"{self.me.number}/{n}",) for n in range(500)]
        expect("COPY", await self.db.copy_records_to_table("entry", columns=["note"], records=rows), "COPY 500")
        out = []

        async def keep(data):
            out.append(data)

        await self.db.copy_from_query("select note from entry where id > $1 order by id", 0, output=keep)
        expect("rows out", b"".join(out).decode().split(), [note for (note,) in rows])
        try:
            await self.db.copy_records_to_table("entry", columns=["note"], records=rows[:1])
            raise AssertionError("a unique note is there twice")
        except asyncpg.UniqueViolationError:
            await self.db.execute("truncate entry")

    async def check_types(self, turn):
        """Introspection of a type that each client finds in its own schema, and a codec of the application."""
        db = await asyncpg.connect()
        await db.execute(self.me.settings[0])
        mood = f"mood of {self.me.number}"
        expect("enum", await db.fetchval("select $1::mood", mood), mood)
        expect("array of it", await db.fetchval("select array[$1::mood, 'calm']", mood), [mood, "calm"])
        await db.set_type_codec("mood", schema=self.me.schema, encoder=str, decoder=lambda text: text.upper())
        expect("codec", await db.fetchval("select $1::mood", mood), mood.upper())
        await db.close()

    async def check_pool(self, turn):
        """Its own pool resets a connection that is given back: with UNLISTEN *, CLOSE ALL, RESET ALL and more."""
        async with asyncpg.create_pool(min_size=1, max_size=1) as pool:
            async with pool.acquire() as db:
                await db.execute(self.me.settings[0])
                kept = await db.fetchval("select min(owner) from item")
                expect("owner", kept, self.me.number)
                await db.execute("select pg_advisory_lock($1)", self.me.lock)
            await self.identity()
            async with pool.acquire() as db:
                expect("locks after the reset", await db.fetchval(MY_LOCKS), None)
                expect("search_path after the reset", await db.fetchval("show search_path"), '"$user", public')

    async def check_cancel(self, turn):
        try:
            await self.db.execute("select pg_sleep(30)", timeout=0.1)
            raise AssertionError("a query of 30 s is done after 0.1 s")
        except asyncio.TimeoutError:
            pass

    async def check_notify(self, turn):
        message = f"{self.me.number}:{turn}"
        await self.db.execute("select pg_notify($1, $2), pg_notify($3, $2)", COMMON, message, self.me.channel)
        Client.sent.append(message)
        self.sent_to_me.append(message)


if __name__ == "__main__":
    run_tasks(Client)
