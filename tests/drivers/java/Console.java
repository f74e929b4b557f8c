import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/** The admin console with pgJDBC in each of its modes, with and without transactions. */
public final class Console {
    private static final String[] MODES = {
        "", "?preferQueryMode=simple", "?preferQueryMode=extended", "?prepareThreshold=1", "?defaultRowFetchSize=2",
        "?assumeMinServerVersion=9.0",
    };

    public static void main(String[] arguments) throws SQLException {
        for (String mode : MODES) {
            check(mode, true);
            check(mode, false);
        }
    }

    private static void check(String mode, boolean autoCommit) throws SQLException {
        String address = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        String password = System.getenv("PGPASSWORD");
        try (Connection db = DriverManager.getConnection(address + "/pgbouncer" + mode, System.getenv("PGUSER"), password);
                Statement statement = db.createStatement();
                PreparedStatement prepared = db.prepareStatement("SHOW LISTS")) {
            db.setAutoCommit(autoCommit);
            for (int i = 0; i < 7; i++) { // prepared on the server from the fifth on
                int rows = 0;
                try (ResultSet result = prepared.executeQuery()) {
                    while (result.next()) {
                        rows++;
                        result.getInt("items");
                    }
                }
                expect(mode, rows == 14);
            }
            try (ResultSet result = statement.executeQuery("SHOW TOTALS")) {
                expect(mode, result.next() && result.getLong("value") >= 0);
            }
            try {
                statement.execute("nonsense");
                expect(mode, false);
            } catch (SQLException error) {
                expect(mode, "08P01".equals(error.getSQLState()));
            }
            if (!autoCommit) {
                db.rollback();
            }
            statement.execute("PAUSE");
            statement.execute("RESUME");
            expect(mode, db.getTransactionIsolation() == Connection.TRANSACTION_READ_COMMITTED);
        }
    }

    private static void expect(String mode, boolean holds) {
        if (!holds) {
            throw new IllegalStateException("not as expected with \"" + mode + "\"");
        }
    }
}
