//! OpenLDAP's server, with a directory of a test's own.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::pki::{Authority, Files};
use crate::scratch::{Scratch, give_to_servers, server_command};
use crate::wait::{eventually, free_port};

/// The root of the directory.
pub const BASE: &str = "dc=example,dc=net";
/// Who may look into it.
pub const READER: &str = "cn=reader,dc=example,dc=net";
/// The reader's password.
pub const READER_PASSWORD: &str = "look, don't \"touch\"";

/// A running server.
#[derive(Debug)]
pub struct Slapd {
    child: Child,
    scratch: Scratch,
    files: Files,
    port: u16,
    tls_port: u16,
}

/// Somebody in the directory.
#[derive(Debug, Clone, Copy)]
pub struct Person<'a> {
    /// Value of `uid`, of which the name is made.
    pub uid: &'a str,
    /// Value of `mail`.
    pub mail: &'a str,
    /// Password.
    pub password: &'a str,
}

impl Slapd {
    /// A server on free ports of 127.0.0.1, in the clear and with TLS. `None` where there is no slapd and none can be
    /// brought, which is said.
    pub fn start(people: &[Person<'_>]) -> Option<Slapd> {
        let root = programs()?;
        let scratch = Scratch::new("slapd");
        let files = Files::new();
        let authority = Authority::new("LDAP authority");
        files.write("ca.pem", &authority.pem());
        let (certificate, key) = files.identity("server", &authority.server(&["localhost", "127.0.0.1"]));
        let dir = scratch.path();
        let data = dir.join("data");
        fs::create_dir(&data).expect("a directory for the data");
        give_to_servers(&data);
        let config = configuration(root, &data, &files.dir().join("ca.pem"), &certificate, &key);
        let config = scratch.write("slapd.conf", &config);
        let ldif = scratch.write("people.ldif", &ldif(people));
        let loaded = command(root, dir).args(["-T", "add", "-f"]).arg(&config).arg("-l").arg(&ldif).status();
        assert!(loaded.expect("run slapadd").success(), "{}", log(dir));
        let (port, tls_port) = (free_port(), free_port());
        let urls = format!("ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}");
        let child = command(root, dir).args(["-d", "256", "-h", &urls, "-f"]).arg(&config).spawn();
        let mut slapd = Slapd { child: child.expect("start slapd"), scratch, files, port, tls_port };
        slapd.scratch.guard(slapd.child.id());
        eventually("slapd listens", Duration::from_secs(20), || {
            let ended = slapd.child.try_wait().expect("look after slapd");
            assert!(ended.is_none(), "slapd has ended: {}", slapd.log());
            [port, tls_port].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        });
        Some(slapd)
    }

    /// Port for connections in the clear, and for StartTLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The authority that has signed its certificate, for `localhost` and 127.0.0.1.
    pub fn ca_file(&self) -> PathBuf {
        self.files.dir().join("ca.pem")
    }

    /// What it has logged: every request, without passwords.
    pub fn log(&self) -> String {
        log(self.scratch.path())
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

/// The directory under which the files of Debian's package are.
fn programs() -> Option<&'static Path> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let bring = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ldap/setup");
        let output = Command::new(script).stderr(Stdio::piped()).output().ok()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            eprintln!("SKIPPED: no slapd here, so LDAP is not tested with a real server: {}", why.trim());
            return None;
        }
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    ROOT.get_or_init(bring).as_deref()
}

fn command(root: &Path, dir: &Path) -> Command {
    let mut command = server_command(&root.join("usr/sbin/slapd"));
    if root != Path::new("/") {
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        command.env("LD_LIBRARY_PATH", root.join(libraries));
    }
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("open slapd's log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

fn configuration(root: &Path, data: &Path, ca: &Path, certificate: &Path, key: &Path) -> String {
    let schema =
        |name: &str| format!("include {}\n", root.join(format!("etc/ldap/schema/{name}.schema")).display());
    let schemas: String = ["core", "cosine", "inetorgperson"].into_iter().map(schema).collect();
    format!(
        "{schemas}modulepath {modules}\nmoduleload back_mdb\n\
         TLSCACertificateFile {ca}\nTLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n\
         access to attrs=userPassword by anonymous auth\n\
         access to * by dn.exact={READER} read by anonymous auth\n\
         database mdb\nmaxsize 10485760\nsuffix {BASE}\nrootdn cn=root,{BASE}\ndirectory {data}\n",
        modules = root.join("usr/lib/ldap").display(),
        ca = ca.display(),
        certificate = certificate.display(),
        key = key.display(),
        data = data.display(),
    )
}

fn ldif(people: &[Person<'_>]) -> String {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let mut out = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: example\n\n\
         dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: reader\n\
         userPassword:: {}\n\n",
        encoded(READER_PASSWORD)
    );
    for (i, person) in people.iter().enumerate() {
        let special = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_string() } else { hex(c) };
        let rdn: String = person.uid.chars().map(special).collect();
        out += &format!(
            "dn: uid={rdn},{BASE}\nobjectClass: inetOrgPerson\ncn: person {i}\nsn: {i}\nuid:: {}\nmail: {}\n\
             userPassword:: {}\n\n",
            encoded(person.uid),
            person.mail,
            encoded(person.password)
        );
    }
    out
}

/// A character in a distinguished name.
fn hex(c: char) -> String {
    c.to_string().bytes().map(|byte| format!("\\{byte:02x}")).collect()
}
