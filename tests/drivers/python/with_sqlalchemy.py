"""SQLAlchemy 2: its asyncpg dialect for every other client, its psycopg dialect for the rest; both with its own pool."""

import asyncio

from harness import IDENTITY, LOCK, MY_LOCKS, expect, run_tasks
from sqlalchemy import ForeignKey, MetaData, Table, delete, event, exc, func, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int]
    note: Mapped[str]


class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int] = mapped_column(server_default="0")
    note: Mapped[str | None] = mapped_column(unique=True)


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


class Client:
    holder = None
    deposits = 0

    def __init__(self, me):
        self.me = me
        driver = ("asyncpg", "psycopg")[me.number % 2]
        options = {"prepare_threshold": 1} if driver == "psycopg" else {}
        # The URL names nothing: both drivers read the PG* variables.
        self.engine = create_async_engine(f"postgresql+{driver}://", pool_size=1, max_overflow=1, connect_args=options)
        event.listen(self.engine.sync_engine, "connect", self.connected)

    def connected(self, db, record):
        cursor = db.cursor()
        for setting in self.me.settings:
            cursor.execute(setting)
        cursor.close()
        db.commit()

    async def open(self):
        await self.identity()

    async def close(self):
        await self.engine.dispose()

    async def start(self):
        pass

    async def finish(self):
        async with AsyncSession(self.engine) as session:
            expect("deposits", (await session.get_one(Account, 1)).balance, Client.deposits)

    async def scalar(self, query, **params):
        async with self.engine.begin() as db:
            return await db.scalar(text(query), params)

    async def identity(self):
        async with self.engine.begin() as db:
            expect("identity", tuple((await db.execute(text(IDENTITY))).one()), self.me.identity)

    async def check_settings(self, turn):
        async with self.engine.begin() as db:
            await db.execute(text("set local work_mem to '1MB'"))
            expect("SET LOCAL", await db.scalar(text("show work_mem")), "1MB")
        await self.identity()
        async with self.engine.connect() as db:
            await db.execute(text("set timezone to 'Asia/Tokyo'"))
            await db.rollback()
        await self.identity()
        await self.scalar("select set_config('app.note', :note, false)", note=f"note {self.me.number}")
        await self.identity()
        expect("set_config", await self.scalar("show app.note"), f"note {self.me.number}")

    async def check_isolation(self, turn):
        async with self.engine.connect() as db:
            await db.execution_options(isolation_level="SERIALIZABLE")
            for _ in range(2):
                expect("isolation", await db.scalar(text("show transaction_isolation")), "serializable")
                await db.commit()
        async with self.engine.connect() as db:
            expect("isolation", await db.scalar(text("show transaction_isolation")), "read committed")
            await db.rollback()
            await db.execution_options(isolation_level="AUTOCOMMIT")
            for _ in range(3):
                expect("in autocommit", await db.scalar(select(func.min(Item.owner))), self.me.number)

    async def check_role(self, turn):
        await self.set(f"set role {self.me.role}")
        for _ in range(3):
            expect("SET ROLE", await self.scalar("select current_user::text"), self.me.role)
        await self.set("reset role")

    async def set(self, statement):
        async with self.engine.begin() as db:
            await db.execute(text(statement))

    async def check_temporary(self, turn):
        scratch = Table("scratch", MetaData(), Item.__table__.c.owner.copy(), prefixes=["TEMPORARY"])
        async with self.engine.begin() as db:
            await db.run_sync(scratch.create)
            await db.execute(scratch.insert(), [{"owner": self.me.number}])
        async with self.engine.begin() as db:
            expect("temporary table", (await db.execute(select(scratch))).all(), [(self.me.number,)])
        await self.set("drop table scratch")

    async def check_advisory(self, turn):
        await self.scalar("select pg_advisory_lock(:key)", key=self.me.lock)
        expect("locks of the session", await self.scalar(MY_LOCKS), [self.me.lock])
        expect("unlock", await self.scalar("select pg_advisory_unlock(:key)", key=self.me.lock), True)
        async with self.engine.begin() as db:
            await db.execute(select(func.pg_advisory_xact_lock(LOCK)))
            expect("who else has the lock", Client.holder, None)
            Client.holder = self.me.number
            await asyncio.sleep(0)
            expect("who has the lock", Client.holder, self.me.number)
            Client.holder = None

    async def check_cursors(self, turn):
        async with self.engine.connect() as db:
            rows = await db.stream(select(Item.owner, Item.id).order_by(Item.id).execution_options(yield_per=30))
            expect("stream", [tuple(row) async for row in rows], [(self.me.number, id) for id in range(1, 101)])

    async def check_savepoints(self, turn):
        async with AsyncSession(self.engine) as session, session.begin():
            session.add(Entry(note="kept", owner=self.me.number))
            await session.flush()
            for _ in range(2):
                try:
                    async with session.begin_nested():
                        session.add(Entry(note="kept", owner=self.me.number))
                    raise AssertionError("a unique note is there twice")
                except exc.IntegrityError:
                    pass
            async with session.begin_nested() as outer:
                session.add(Entry(note="outer", owner=self.me.number))
                async with session.begin_nested():
                    session.add(Entry(note="inner", owner=self.me.number))
                await outer.rollback()
            notes = (await session.scalars(select(Entry.note).order_by(Entry.id))).all()
            expect("rows", notes, ["kept"])
            await session.execute(delete(Entry))

    async def check_inserts(self, turn):
        """Many rows in one statement, their keys returned in order."""
        async with AsyncSession(self.engine) as session:
            entries = [Entry(note=f"{self.me.number}/{n}", owner=self.me.number) for n in range(200)]
            session.add_all(entries)
            await session.flush()
            ids = [entry.id for entry in entries]
            expect("keys", ids, sorted(ids))
            stored = (await session.execute(select(Entry.id, Entry.note).order_by(Entry.id))).all()
            expect("rows", stored, [(entry.id, entry.note) for entry in entries])
            await session.rollback()

    async def check_for_update(self, turn):
        async with AsyncSession(self.engine) as session, session.begin():
            account = await session.get_one(Account, 1, with_for_update=True)
            await session.execute(update(Account).values(balance=account.balance + 1))
        Client.deposits += 1

    async def check_reflection(self, turn):
        def reflect(db):
            columns = [column["name"] for column in inspect(db).get_columns("entry")]
            table = Table("entry", MetaData(), autoload_with=db)
            return columns, [str(column.type) for column in table.columns], inspect(db).get_enums()

        async with self.engine.connect() as db:
            columns, types, enums = await db.run_sync(reflect)
        expect("columns", columns, ["id", "owner", "note"])
        expect("types", types, ["BIGINT", "INTEGER", "TEXT"])
        expect("enum", [enum["labels"] for enum in enums], [["calm", f"mood of {self.me.number}"]])

    async def check_ddl(self, turn):
        query = text("select * from shape")
        for _ in range(3):
            async with self.engine.begin() as db:
                columns = len((await db.execute(query)).one())
        await self.set(f"alter table shape add column more_{turn} int default {turn}")
        try:
            async with self.engine.begin() as db:
                row = (await db.execute(query)).one()
        except exc.NotSupportedError:  # direct: in a transaction nothing else is possible
            await self.engine.dispose()
            async with self.engine.begin() as db:
                row = (await db.execute(query)).one()
        expect("columns", len(row), columns + 1)


if __name__ == "__main__":
    run_tasks(Client)
