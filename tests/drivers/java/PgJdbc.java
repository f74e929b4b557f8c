import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/**
 * pgJDBC: prepareThreshold=1, fetch size with autocommit off, batches, generated keys, metadata of a prepared
 * statement, setSchema, query timeout, COPY, notifications.
 */
final class PgJdbc {
    private static final int TIMEOUT_SECONDS = 60;
    private static final int COMMON_LOCK = 4711;
    private static final String COMMON_CHANNEL = "everybody";
    private static final String IDENTITY = "select session_user::text, current_user::text, current_setting('app.user_id'),"
        + " current_setting('TimeZone'), current_setting('work_mem'), current_setting('search_path'),"
        + " (select min(owner) from item), (select array_agg(owner)::text from secret)";
    private static final String MY_LOCKS = "select array_agg(objid::int)::text from pg_locks"
        + " where locktype = 'advisory' and pid = pg_backend_pid()";

    private static final AtomicReference<Integer> HOLDER = new AtomicReference<>();
    private static final ConcurrentLinkedQueue<String> SENT = new ConcurrentLinkedQueue<>();
    private static final Map<String, ConcurrentLinkedQueue<String>> FAILURES = new ConcurrentHashMap<>();

    private final int number;
    private final String schema;
    private final String channel;
    private final List<String> sentToMe = new ArrayList<>();
    private Connection db;
    private Connection listener;

    private PgJdbc(int number) {
        this.number = number;
        schema = "c" + number;
        channel = "channel_" + number;
    }

    /** A group of checks; leaves the connection in autocommit mode. */
    private interface Check {
        void run(int turn) throws Exception;
    }

    private List<Map.Entry<String, Check>> checks() {
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("settings", this::settings);
        checks.put("startup", this::startup);
        checks.put("schema", this::schema);
        checks.put("role", this::role);
        checks.put("temporary", this::temporary);
        checks.put("advisory", this::advisory);
        checks.put("cursors", this::cursors);
        checks.put("sql prepare", this::sqlPrepare);
        checks.put("statements", this::statements);
        checks.put("metadata", this::metadata);
        checks.put("ddl", this::ddl);
        checks.put("currval", this::currval);
        checks.put("batches", this::batches);
        checks.put("keys", this::keys);
        checks.put("savepoints", this::savepoints);
        checks.put("copy", this::copy);
        checks.put("timeout", this::timeout);
        checks.put("notify", this::notifyAll);
        return List.copyOf(checks.entrySet());
    }

    // --- the checks -------------------------------------------------------------------------------------------------

    private void identity() throws SQLException {
        String user = System.getenv("PGUSER");
        String wanted = String.join("|", user, user, "" + number, "Etc/GMT+" + number, (65 + number) + "kB",
            schema + ", public", "" + number, "{" + number + "}");
        expect("identity", row(db, IDENTITY), wanted);
    }

    private void settings(int turn) throws SQLException {
        db.setAutoCommit(false);
        run("set local work_mem to '1MB'");
        expect("SET LOCAL", one("show work_mem"), "1MB");
        db.commit();
        identity();
        run("set timezone to 'Asia/Tokyo'");
        run("set app.user_id to '0815'");
        db.rollback();
        db.setAutoCommit(true);
        identity();
        row(db, "select set_config('app.note', ?, false)", "note " + number);
        identity();
        expect("set_config", one("show app.note"), "note " + number);
        run("reset app.note; reset work_mem");
        expect("RESET", one("show work_mem"), "4MB");
        run("set work_mem to '" + (65 + number) + "kB'");
        db.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        db.setReadOnly(true);
        db.setAutoCommit(false);
        for (int n = 0; n < 3; n++) {
            expect("isolation", one("show transaction_isolation"), "serializable");
            expect("read only", one("show transaction_read_only"), "on");
            db.commit();
        }
        db.setReadOnly(false);
        db.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        db.setAutoCommit(true);
    }

    private void startup(int turn) throws SQLException {
        String state = "select current_setting('app.note'), current_schema(), min(owner) from item";
        String wanted = "start|" + schema + "|" + number;
        try (Connection other = connect("currentSchema", schema, "options", "-c app.note=start")) {
            for (int n = 0; n < 3; n++) {
                expect("start-up parameters", row(other, state), wanted);
            }
            execute(other, "set app.note to 'changed'");
            execute(other, "set search_path to public");
            execute(other, "reset all");
            expect("RESET ALL", row(other, state), wanted);
        }
    }

    private void schema(int turn) throws SQLException {
        try (Connection other = connect()) {
            other.setSchema(schema);
            for (int n = 0; n < 3; n++) {
                expect("setSchema", row(other, "select current_schema(), min(owner) from item"), schema + "|" + number);
                expect("getSchema", other.getSchema(), schema);
            }
        }
    }

    private void role(int turn) throws SQLException {
        String role = number % 2 == 0 ? "alice" : "bob";
        run("set role " + role);
        for (int n = 0; n < 3; n++) {
            String wanted = role + "|{" + number + "}";
            expect("SET ROLE", row(db, "select current_user::text, array_agg(owner)::text from secret"), wanted);
        }
        run("reset role");
    }

    private void temporary(int turn) throws SQLException {
        run("create temp table scratch (owner int)");
        update("insert into scratch values (?)", number);
        expect("temporary table", one("select array_agg(owner)::text from scratch"), "{" + number + "}");
        identity();
        run("drop table scratch");
    }

    private void advisory(int turn) throws SQLException {
        db.setAutoCommit(false);
        row(db, "select pg_advisory_lock(?)::text", 1000 + number);
        db.commit();
        expect("locks of the session", one(MY_LOCKS), "{" + (1000 + number) + "}");
        db.commit();
        expect("unlock", one("select pg_advisory_unlock(?)", 1000 + number), "t");
        db.commit();
        db.setAutoCommit(true);
        row(db, "select pg_advisory_lock(?)::text", COMMON_LOCK);
        expect("who else has the lock", "" + HOLDER.getAndSet(number), "null");
        identity();
        expect("who has the lock", "" + HOLDER.getAndSet(null), "" + number);
        expect("unlock", one("select pg_advisory_unlock(?)", COMMON_LOCK), "t");
    }

    private void cursors(int turn) throws SQLException {
        db.setAutoCommit(false);
        for (int n = 0; n < 2; n++) {
            try (PreparedStatement walk = db.prepareStatement("select owner, id from item where id > ? order by id")) {
                walk.setFetchSize(15);
                walk.setInt(1, 0);
                int seen = 0;
                try (ResultSet rows = walk.executeQuery()) {
                    while (rows.next()) {
                        expect("row", rows.getInt(1) + "|" + rows.getInt(2), number + "|" + ++seen);
                        if (seen == 40) {
                            expect("between fetches", one("select min(owner) from item"), "" + number);
                        }
                    }
                }
                expect("rows", "" + seen, "100");
            }
            db.commit();
        }
        try (Statement held = db.createStatement(
            ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY, ResultSet.HOLD_CURSORS_OVER_COMMIT)) {
            held.execute("declare held cursor with hold for select id from item order by id");
            db.commit();
            identity();
            db.commit();
            expect("cursor with hold", one("fetch absolute 50 held"), "50");
            held.execute("close held");
        }
        db.commit();
        db.setAutoCommit(true);
    }

    private void sqlPrepare(int turn) throws SQLException {
        run("prepare plan (int) as select " + number + " * 1000 + $1");
        for (int n = 0; n < 3; n++) {
            expect("EXECUTE", one("execute plan (" + n + ")"), "" + (number * 1000 + n));
        }
        run("deallocate plan");
    }

    private void statements(int turn) throws SQLException {
        try (PreparedStatement kept = db.prepareStatement("select owner, ?::int from item where id = ?")) {
            for (int n = 0; n < 20; n++) {
                kept.setInt(1, n);
                kept.setInt(2, n + 1);
                try (ResultSet rows = kept.executeQuery()) {
                    rows.next();
                    expect("prepared statement", rows.getInt(1) + "|" + rows.getInt(2), number + "|" + n);
                }
                expect("another", one("select (?::int * ?::int)::text", number, n), "" + number * n);
            }
            kept.setString(1, "no number");
            refused("22P02", kept::executeQuery);
            kept.setInt(1, 1);
            kept.executeQuery().close();
        }
        for (int n = 0; n < 3; n++) {
            refused("22012", () -> one("select 1 / ?::int", 0));
        }
        refused("42P01", () -> one("select * from missing"));
        db.setAutoCommit(false);
        refused("42P01", () -> one("select * from missing"));
        refused("25P02", () -> one("select 1"));
        db.rollback();
        db.setAutoCommit(true);
    }

    /** The driver describes a statement that it has prepared, perhaps elsewhere, without executing it. */
    private void metadata(int turn) throws SQLException {
        try (PreparedStatement kept = db.prepareStatement("select id, note from item where id = ?")) {
            for (int n = 0; n < 3; n++) {
                expect("columns", kept.getMetaData().getColumnName(2), "note");
                expect("parameter", kept.getParameterMetaData().getParameterTypeName(1), "int4");
                identity();
                kept.setInt(1, 1);
                kept.executeQuery().close();
            }
        }
        try (ResultSet columns = db.getMetaData().getColumns(null, schema, "entry", "%")) {
            StringBuilder names = new StringBuilder();
            while (columns.next()) {
                names.append(columns.getString("COLUMN_NAME")).append(' ');
            }
            expect("columns of a table", names.toString(), "id owner note ");
        }
    }

    /** In autocommit mode the driver prepares again by itself. */
    private void ddl(int turn) throws SQLException {
        int columns = 0;
        for (int n = 0; n < 3; n++) {
            columns = columnsOf(db);
        }
        run("alter table shape add column more_" + turn + " int default " + turn);
        expect("columns", "" + columnsOf(db), "" + (columns + 1));
        try (Connection fresh = connect()) {
            execute(fresh, "set search_path to " + schema);
            expect("columns for a new client", "" + columnsOf(fresh), "" + (columns + 1));
        }
    }

    private static int columnsOf(Connection db) throws SQLException {
        try (PreparedStatement shape = db.prepareStatement("select * from shape"); ResultSet rows = shape.executeQuery()) {
            return rows.getMetaData().getColumnCount();
        }
    }

    private void currval(int turn) throws SQLException {
        try (Connection other = connect()) {
            String ticket = row(other, "select nextval('public.ticket')");
            for (int n = 0; n < 5; n++) {
                expect("currval", row(other, "select currval('public.ticket')"), ticket);
            }
        }
    }

    private void batches(int turn) throws SQLException {
        db.setAutoCommit(false);
        try (PreparedStatement insert = db.prepareStatement("insert into entry (note) values (?)")) {
            for (int n = 0; n < 300; n++) {
                insert.setString(1, number + "/" + n);
                insert.addBatch();
            }
            expect("batch", "" + insert.executeBatch().length, "300");
            expect("rows", one("select count(*) from entry where owner = ?", number), "300");
            insert.setString(1, number + "/7");
            insert.addBatch();
            insert.addBatch();
            insert.executeBatch();
            throw new AssertionError("a unique note is there twice");
        } catch (BatchUpdateException error) {
            expect("error", error.getSQLState(), "23505");
        }
        db.rollback();
        expect("rows after the rollback", one("select count(*) from entry"), "0");
        db.commit();
        db.setAutoCommit(true);
    }

    private void keys(int turn) throws SQLException {
        db.setAutoCommit(false);
        String insert = "insert into entry (note) values (?)";
        try (PreparedStatement statement = db.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            for (int n = 0; n < 50; n++) {
                statement.setString(1, "note " + n);
                statement.addBatch();
            }
            statement.executeBatch();
            int seen = 0;
            try (ResultSet made = statement.getGeneratedKeys()) {
                while (made.next()) {
                    expect("key's note", one("select note from entry where id = ?", made.getLong("id")), "note " + seen++);
                }
            }
            expect("keys", "" + seen, "50");
        }
        db.rollback();
        db.setAutoCommit(true);
    }

    private void savepoints(int turn) throws SQLException {
        db.setAutoCommit(false);
        update("insert into entry (note) values (?)", "kept");
        for (int n = 0; n < 3; n++) {
            Savepoint savepoint = db.setSavepoint();
            refused("23505", () -> update("insert into entry (note) values (?)", "kept"));
            db.rollback(savepoint);
        }
        expect("rows", one("select count(*) from entry"), "1");
        db.rollback();
        db.setAutoCommit(true);
    }

    private void copy(int turn) throws Exception {
        StringBuilder lines = new StringBuilder();
        for (int n = 0; n < 500; n++) {
            lines.append(number).append('/').append(n).append('\n');
        }
        var copies = db.unwrap(PGConnection.class).getCopyAPI();
        long copied = copies.copyIn("copy entry (note) from stdin", new StringReader(lines.toString()));
        expect("rows in", "" + copied, "500");
        StringWriter out = new StringWriter();
        copies.copyOut("copy (select note from entry order by id) to stdout", out);
        expect("rows out", out.toString(), lines.toString());
        refused("23505", () -> {
            try {
                copies.copyIn("copy entry (note) from stdin", new StringReader(lines.toString()));
            } catch (java.io.IOException error) {
                throw new SQLException(error);
            }
        });
        run("truncate entry");
    }

    private void timeout(int turn) throws SQLException {
        try (Statement slow = db.createStatement()) {
            slow.setQueryTimeout(1);
            refused("57014", () -> slow.executeQuery("select pg_sleep(30)"));
        }
    }

    private void notifyAll(int turn) throws SQLException {
        String message = number + ":" + turn;
        db.setAutoCommit(false);
        row(db, "select pg_notify(?, ?)::text", COMMON_CHANNEL, message);
        row(db, "select pg_notify(?, ?)::text", channel, message);
        db.commit();
        SENT.add(message);
        sentToMe.add(message);
        row(db, "select pg_notify(?, 'never')::text", channel);
        db.rollback();
        db.setAutoCommit(true);
    }

    private void checkHeard() throws SQLException {
        List<String> common = new ArrayList<>();
        List<String> own = new ArrayList<>();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
        while (common.size() + own.size() < SENT.size() + sentToMe.size() && System.nanoTime() < deadline) {
            for (PGNotification heard : listener.unwrap(PGConnection.class).getNotifications(200)) {
                (heard.getName().equals(COMMON_CHANNEL) ? common : own).add(heard.getParameter());
            }
        }
        expect("own channel", own.toString(), sentToMe.toString());
        expect("common channel", common.stream().sorted().toList().toString(), SENT.stream().sorted().toList().toString());
    }

    // --- the means --------------------------------------------------------------------------------------------------

    private static Connection connect(String... properties) throws SQLException {
        Properties all = new Properties();
        all.setProperty("user", System.getenv("PGUSER"));
        all.setProperty("password", System.getenv("PGPASSWORD"));
        all.setProperty("prepareThreshold", "1");
        for (int n = 0; n < properties.length; n += 2) {
            all.setProperty(properties[n], properties[n + 1]);
        }
        String url = "jdbc:postgresql://%s:%s/%s"
            .formatted(System.getenv("PGHOST"), System.getenv("PGPORT"), System.getenv("PGDATABASE"));
        return DriverManager.getConnection(url, all);
    }

    private static void execute(Connection db, String query) throws SQLException {
        try (Statement statement = db.createStatement()) {
            statement.execute(query);
        }
    }

    private void run(String query) throws SQLException {
        execute(db, query);
    }

    private void update(String query, Object... values) throws SQLException {
        try (PreparedStatement statement = db.prepareStatement(query)) {
            bind(statement, values);
            statement.executeUpdate();
        }
    }

    /** The columns of the first row, joined. */
    private static String row(Connection db, String query, Object... values) throws SQLException {
        try (PreparedStatement statement = db.prepareStatement(query)) {
            bind(statement, values);
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                List<String> columns = new ArrayList<>();
                for (int n = 1; n <= rows.getMetaData().getColumnCount(); n++) {
                    columns.add(rows.getString(n));
                }
                return String.join("|", columns);
            }
        }
    }

    private String one(String query, Object... values) throws SQLException {
        return row(db, query, values);
    }

    private static void bind(PreparedStatement statement, Object... values) throws SQLException {
        for (int n = 0; n < values.length; n++) {
            statement.setObject(n + 1, values[n]);
        }
    }

    private interface Work {
        void run() throws SQLException;
    }

    private static void refused(String state, Work work) throws SQLException {
        try {
            work.run();
        } catch (SQLException error) {
            if (state.equals(error.getSQLState())) {
                return;
            }
            throw error;
        }
        throw new AssertionError(state + " was expected");
    }

    private static void expect(String what, String got, String wanted) {
        if (!Objects.equals(got, wanted)) {
            throw new AssertionError(what + " is " + got + ", not " + wanted);
        }
    }

    // --- the run ----------------------------------------------------------------------------------------------------

    private void open() throws SQLException {
        db = connect();
        run("set search_path to " + schema + ", public");
        run("set timezone to 'Etc/GMT+" + number + "'");
        run("set work_mem to '" + (65 + number) + "kB'");
        run("set app.user_id to '" + number + "'");
    }

    private void live(int rounds, CyclicBarrier together) throws Exception {
        open();
        listener = connect();
        execute(listener, "listen " + COMMON_CHANNEL);
        execute(listener, "listen " + channel);
        together.await();
        List<Map.Entry<String, Check>> checks = checks();
        for (int turn = 0; turn < rounds; turn++) {
            for (int n = 0; n < checks.size(); n++) {
                var check = checks.get((n + number) % checks.size()); // each begins elsewhere, so that they mix
                try {
                    check.getValue().run(turn);
                    identity();
                } catch (Exception | AssertionError error) {
                    failed(check.getKey(), error);
                    db.close();
                    open();
                }
            }
        }
        together.await();
        checkHeard();
        listener.close();
        db.close();
    }

    private void failed(String group, Throwable error) {
        String where = "";
        if (!(error instanceof AssertionError)) {
            int line = 0;
            for (StackTraceElement frame : error.getStackTrace()) {
                if (line == 0 && frame.getClassName().equals(PgJdbc.class.getName())) {
                    line = frame.getLineNumber();
                }
            }
            String state = error instanceof SQLException sql ? " " + sql.getSQLState() : "";
            where = error.getClass().getSimpleName() + state + " at line " + line + ": ";
        }
        String text = where + String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
        FAILURES.computeIfAbsent(group, none -> new ConcurrentLinkedQueue<>()).add("client " + number + ": " + text);
    }

    private static synchronized void finish() {
        FAILURES.forEach((group, lines) -> {
            String more = lines.size() > 1 ? " (and " + (lines.size() - 1) + " more)" : "";
            System.out.println(group + ": " + lines.peek() + more);
        });
        System.out.flush();
        Runtime.getRuntime().halt(FAILURES.isEmpty() ? 0 : 1);
    }

    public static void main(String[] arguments) throws InterruptedException {
        int clients = Integer.parseInt(arguments[0]);
        int rounds = Integer.parseInt(arguments[1]);
        CyclicBarrier together = new CyclicBarrier(clients);
        List<Thread> threads = new ArrayList<>();
        for (int number = 0; number < clients; number++) {
            PgJdbc client = new PgJdbc(number);
            Thread thread = new Thread(() -> {
                try {
                    client.live(rounds, together);
                } catch (Exception | AssertionError error) {
                    client.failed("run", error);
                    finish();
                }
            });
            thread.setDaemon(true);
            thread.start();
            threads.add(thread);
        }
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(TIMEOUT_SECONDS);
        for (Thread thread : threads) {
            thread.join(Math.max(1, TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime())));
            if (thread.isAlive()) {
                for (StackTraceElement frame : thread.getStackTrace()) {
                    if (frame.getClassName().equals(PgJdbc.class.getName())) {
                        System.out.println("not done after " + TIMEOUT_SECONDS + " s: " + frame);
                    }
                }
                FAILURES.put("all", new ConcurrentLinkedQueue<>(List.of("not done after " + TIMEOUT_SECONDS + " s")));
                break;
            }
        }
        finish();
    }
}
