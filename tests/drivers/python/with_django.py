"""Django 5 with psycopg 3 as its documentation has it: persistent connections, server-side cursors, a schema a tenant.

Every other client binds on the server and prepares, which Django leaves off unless asked.
"""

import os
import sys

import django
from django.conf import settings
from harness import IDENTITY, LOCK, MY_LOCKS, Me, expect, run_threads


def database(number):
    me = Me(number)
    options = {
        "options": f"-c search_path={me.schema},public -c work_mem={me.memory} -c app.user_id={number}",
    }
    if number % 2:
        options |= {"server_side_binding": True, "prepare_threshold": 1}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "NAME": os.environ["PGDATABASE"],
        "USER": os.environ["PGUSER"],
        "PASSWORD": os.environ["PGPASSWORD"],
        "TIME_ZONE": me.zone,
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }


tenants = {f"tenant_{number}": database(number) for number in range(int(sys.argv[1]))}
settings.configure(DATABASES={"default": database(0)} | tenants, USE_TZ=True)
django.setup()

from django.db import IntegrityError, close_old_connections, connections, migrations, models, transaction  # noqa: E402
from django.db.migrations.recorder import MigrationRecorder  # noqa: E402
from django.db.migrations.state import ProjectState  # noqa: E402


class Item(models.Model):
    owner = models.IntegerField()
    note = models.TextField()

    class Meta:
        app_label = "drivers"
        db_table = "item"


class Entry(models.Model):
    owner = models.IntegerField(db_default=0)
    note = models.TextField(unique=True, null=True)

    class Meta:
        app_label = "drivers"
        db_table = "entry"


class Account(models.Model):
    balance = models.IntegerField()

    class Meta:
        app_label = "drivers"
        db_table = "account"


class Initial(migrations.Migration):
    operations = [
        migrations.CreateModel("Order", [("id", models.BigAutoField(primary_key=True)), ("total", models.IntegerField())]),
        migrations.RunSQL("insert into shop_order (total) values (1)", migrations.RunSQL.noop),
        migrations.AddField("Order", "paid", models.BooleanField(default=False)),
    ]


class Index(migrations.Migration):
    operations = [
        migrations.RunPython(
            lambda apps, editor: apps.get_model("shop", "Order").objects.using(editor.connection.alias).update(paid=True),
            migrations.RunPython.noop),
        migrations.AddIndex("Order", models.Index(fields=["total"], name="by_total")),
    ]


class Client:
    holder = None
    deposits = []

    def __init__(self, me):
        self.me = me
        self.alias = f"tenant_{me.number}"

    def open(self):
        self.db = connections[self.alias]
        self.db.ensure_connection()

    def close(self):
        self.db.close()

    def start(self):
        pass

    def finish(self):
        expect("deposits", Account.objects.using(self.alias).get().balance, len(Client.deposits))

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
        wanted = list(self.me.identity)
        wanted[5] = f"{self.me.schema},public"  # as it is written in the start-up packet
        expect("identity", list(self.rows(IDENTITY)[0]), wanted)

    def check_requests(self, turn):
        """The connection of one request serves the next."""
        kept = self.db.connection
        for _ in range(5):
            close_old_connections()
            with transaction.atomic(using=self.alias):
                expect("owner", Item.objects.using(self.alias).get(pk=7).owner, self.me.number)
        expect("same connection", self.db.connection is kept, True)

    def check_settings(self, turn):
        with transaction.atomic(using=self.alias):
            self.run("set local work_mem to '1MB'")
            expect("SET LOCAL", self.one("show work_mem"), "1MB")
        self.identity()
        try:
            with transaction.atomic(using=self.alias):
                self.run("set app.user_id to '0815'")
                raise LookupError
        except LookupError:
            self.identity()
        self.run("select set_config('app.note', %s, false)", [f"note {self.me.number}"])
        self.identity()
        expect("set_config", self.one("show app.note"), f"note {self.me.number}")
        self.run("set work_mem to '1MB'; set app.user_id to '4711'; reset work_mem; reset app.user_id")

    def check_iterator(self, turn):
        """In autocommit mode Django's cursor is WITH HOLD; other queries run between its fetches."""
        items = Item.objects.using(self.alias).order_by("pk")
        got = []
        for item in items.iterator(chunk_size=15):
            if item.pk % 10 == 0:
                expect("between", Item.objects.using(self.alias).filter(owner=self.me.number).count(), 100)
            got.append((item.owner, item.pk))
        expect("iterator", got, [(self.me.number, id) for id in range(1, 101)])
        with transaction.atomic(using=self.alias):
            got = [id for id in items.values_list("pk", flat=True).iterator(chunk_size=15)]
        expect("iterator in a transaction", got, list(range(1, 101)))
        walk = items.iterator(chunk_size=15)
        next(walk)
        walk.close()
        self.identity()
        expect("cursors left", self.rows("select name from pg_cursors where name like '_django%%'"), [])

    def check_for_update(self, turn):
        with transaction.atomic(using=self.alias):
            account = Account.objects.using(self.alias).select_for_update().get(pk=1)
            account.balance += 1
            account.save(update_fields=["balance"])
        Client.deposits.append(self.me.number)

    def check_atomic(self, turn):
        done = []
        entries = Entry.objects.using(self.alias)
        with transaction.atomic(using=self.alias):
            entries.create(note="kept", owner=self.me.number)
            transaction.on_commit(lambda: done.append("outer"), using=self.alias)
            for _ in range(2):
                try:
                    with transaction.atomic(using=self.alias):
                        transaction.on_commit(lambda: done.append("inner"), using=self.alias)
                        entries.create(note="kept", owner=self.me.number)
                    raise AssertionError("a unique note is there twice")
                except IntegrityError:
                    pass
            with transaction.atomic(using=self.alias):
                entries.create(note="inner", owner=self.me.number)
                transaction.set_rollback(True, using=self.alias)
        expect("hooks", done, ["outer"])
        expect("rows", list(entries.values_list("owner", "note")), [(self.me.number, "kept")])
        entries.bulk_create([Entry(note=str(n), owner=self.me.number) for n in range(200)], batch_size=50)
        expect("deleted", entries.all().delete()[0], 201)

    def check_role(self, turn):
        self.run(f"set role {self.me.role}")
        for _ in range(3):
            expect("SET ROLE", self.one("select current_user::text"), self.me.role)
            expect("row security", self.one("select array_agg(owner) from secret"), [self.me.number])
        self.run("reset role")

    def check_temporary(self, turn):
        self.run("create temp table scratch (owner int)")
        self.run("insert into scratch values (%s)", [self.me.number])
        expect("temporary table", self.one("select array_agg(owner) from scratch"), [self.me.number])
        self.run("drop table scratch")

    def check_migration(self, turn):
        """As deployments do it that start several processes at once: under one session lock, each step a transaction."""
        self.run("select pg_advisory_lock(%s)", [LOCK])
        expect("who else migrates", Client.holder, None)
        Client.holder = self.me.number
        expect("locks of the session", self.one(MY_LOCKS), [LOCK])
        recorder = MigrationRecorder(self.db)
        recorder.ensure_schema()
        state, undo = ProjectState(), []
        for migration in (Initial("0001", "shop"), Index("0002", "shop")):
            undo.append((migration, state.clone()))
            with self.db.schema_editor(atomic=True) as editor:
                state = migration.apply(state, editor)
            recorder.record_applied("shop", migration.name)
        expect("applied", sorted(recorder.applied_migrations()), [("shop", "0001"), ("shop", "0002")])
        expect("migrated", self.rows("select total, paid from shop_order"), [(1, True)])
        with self.db.cursor() as cursor:
            found = self.db.introspection.get_constraints(cursor, "shop_order")
        expect("index", found["by_total"]["columns"], ["total"])
        for migration, before in reversed(undo):
            with self.db.schema_editor(atomic=True) as editor:
                migration.unapply(before, editor)
            recorder.record_unapplied("shop", migration.name)
        expect("who migrates", Client.holder, self.me.number)
        Client.holder = None
        expect("unlock", self.one("select pg_advisory_unlock(%s)", [LOCK]), True)

    def check_ddl(self, turn):
        for _ in range(3):
            columns = len(self.rows("select * from shape")[0])
        self.run(f"alter table shape add column more_{turn} int default {turn}")
        self.db.close()  # what a deployment does; PostgreSQL itself refuses the old plan
        expect("columns", len(self.rows("select * from shape")[0]), columns + 1)


if __name__ == "__main__":
    run_threads(Client)
