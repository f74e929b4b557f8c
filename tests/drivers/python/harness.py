"""What the Python programs share: who a client is, and how its checks are run and reported."""

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import traceback

TIMEOUT = 60  # seconds for a program, which fails then
LOCK = 4711  # the advisory lock for which all clients compete
COMMON = "everybody"  # the channel on which all clients listen
IDENTITY = """
    select session_user::text, current_user::text, current_setting('app.user_id'), current_setting('TimeZone'),
           current_setting('work_mem'), current_setting('search_path'),
           (select min(owner) from item), (select array_agg(owner) from secret)
"""
MY_LOCKS = "select array_agg(objid::int) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"

logging.disable(logging.WARNING)  # what a driver says of an error besides raising it


class Me:
    """The settings by which a client is told from the others."""

    def __init__(self, number):
        self.number = number
        self.schema = f"c{number}"
        self.channel = f"channel_{number}"
        self.lock = 1000 + number
        self.role = ("alice", "bob")[number % 2]
        self.zone = f"Etc/GMT+{number}"
        self.memory = f"{65 + number}kB"
        self.settings = (
            f"set search_path to {self.schema}, public",
            f"set timezone to '{self.zone}'",
            f"set work_mem to '{self.memory}'",
            f"set app.user_id to '{number}'",
        )
        user = os.environ["PGUSER"]
        path = f"{self.schema}, public"
        self.identity = (user, user, str(number), self.zone, self.memory, path, number, [number])


def expect(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what} is {got!r}, not {wanted!r}")


class Report:
    """Collects what failed and prints a line for each group of checks."""

    def __init__(self):
        self.failures = {}
        self.at = {}  # the check at which each client is
        self.lock = threading.Lock()

    def failed(self, group, number, error):
        text = " ".join(str(error).split()) or repr(error)
        if not isinstance(error, AssertionError):
            where = traceback.extract_tb(error.__traceback__)
            program = os.path.abspath(sys.argv[0])
            line = next((frame.lineno for frame in reversed(where) if frame.filename == program), "?")
            text = f"{type(error).__name__} at line {line}: {text}"
        with self.lock:
            self.failures.setdefault(group, []).append(f"client {number}: {text}")

    def out_of_time(self):
        for number, group in list(self.at.items()):
            self.failed(group, number, AssertionError(f"not done after {TIMEOUT} s"))
        self.finish()

    def finish(self):
        for group, lines in self.failures.items():
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            print(f"{group}: {lines[0]}{more}")
        sys.stdout.flush()
        os._exit(1 if self.failures else 0)  # threads that still wait for a server are not waited for


def checks_of(client):
    """The groups of checks in the order of the program, begun elsewhere by each client so that they mix."""
    names = [name for name in type(client).__dict__ if name.startswith("check_")]
    start = client.me.number % len(names)
    return [(name.removeprefix("check_"), getattr(client, name)) for name in names[start:] + names[:start]]


def run_threads(client_class):
    """For drivers that block: a thread a client. A client has open, start, identity, finish, close and checks."""
    faulthandler.dump_traceback_later(TIMEOUT + 5, exit=True)
    number_of_clients, rounds = int(sys.argv[1]), int(sys.argv[2])
    report = Report()
    limit = threading.Timer(TIMEOUT, report.out_of_time)
    limit.daemon = True
    limit.start()
    together = threading.Barrier(number_of_clients)

    def live(number):
        client = client_class(Me(number))
        report.at[number] = "start"
        try:
            client.open()
            client.start()
        except Exception as error:
            report.failed("start", number, error)
            together.abort()
            return
        together.wait()
        for turn in range(rounds):
            for group, check in checks_of(client):
                report.at[number] = group
                try:
                    check(turn)
                    client.identity()
                except Exception as error:
                    report.failed(group, number, error)
                    client.close()
                    client.open()
        report.at[number] = "finish"
        together.wait()
        try:
            client.finish()
            client.close()
        except Exception as error:
            report.failed("finish", number, error)

    def guarded(number):
        try:
            live(number)
        except threading.BrokenBarrierError:
            pass  # another client has failed
        except Exception as error:
            report.failed("run", number, error)
            together.abort()

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(number_of_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.finish()


def run_tasks(client_class):
    """For drivers of asyncio: a task a client."""
    faulthandler.dump_traceback_later(TIMEOUT + 5, exit=True)
    number_of_clients, rounds = int(sys.argv[1]), int(sys.argv[2])
    report = Report()

    async def live(number, together):
        client = client_class(Me(number))
        report.at[number] = "start"
        try:
            await client.open()
            await client.start()
        except Exception as error:
            report.failed("start", number, error)
            await together.abort()
            return
        await together.wait()
        for turn in range(rounds):
            for group, check in checks_of(client):
                report.at[number] = group
                try:
                    await check(turn)
                    await client.identity()
                except Exception as error:
                    report.failed(group, number, error)
                    await client.close()
                    await client.open()
        report.at[number] = "finish"
        await together.wait()
        try:
            await client.finish()
            await client.close()
        except Exception as error:
            report.failed("finish", number, error)

    async def guarded(number, together):
        try:
            await live(number, together)
        except asyncio.BrokenBarrierError:
            pass
        except Exception as error:
            report.failed("run", number, error)
            await together.abort()

    async def everybody():
        together = asyncio.Barrier(number_of_clients)
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.gather(*(guarded(n, together) for n in range(number_of_clients)))
        except TimeoutError:
            report.out_of_time()
        report.finish()

    asyncio.run(everybody())
