import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/** pgJDBC: one login, in the mode of the first argument; see ../logins. */
public final class Login {
    public static void main(String[] arguments) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", System.getenv("LOGIN_CA"));
        if (arguments[0].equals("binding")) {
            properties.setProperty("channelBinding", "require");
        } else if (arguments[0].equals("direct")) {
            properties.setProperty("sslNegotiation", "direct");
        }
        String address = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/postgres";
        try (Connection db = DriverManager.getConnection(address, properties);
                Statement statement = db.createStatement();
                ResultSet result = statement.executeQuery("select current_user")) {
            System.exit(result.next() && result.getString(1).equals("app") ? 0 : 1);
        }
    }
}
