# pgferry in an image of a few megabytes beside libc, without a shell, as a user without rights:
#
#   docker build -t pgferry .
#   docker run -p 6432:6432 -v ./etc:/etc/pgferry:ro pgferry
#
# The directory holds pgferry.ini and userlist.txt, readable for user 65532. In the file: listen_addr = * and
# unix_socket_dir = /tmp (or empty); auth_file = /etc/pgferry/userlist.txt. Nothing of either is in the image.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p pgferry && strip target/release/pgferry

# libc, certificates and time zones of Debian 12; user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/pgferry /usr/bin/pgferry
USER 65532:65532
EXPOSE 6432
# `docker stop` lets clients finish their transactions. After its ten seconds, or what `--stop-timeout` says, they are cut.
STOPSIGNAL SIGINT
# With another listen_port, in a compose file: healthcheck: {test: [CMD, pgferry, ping, "127.0.0.1:PORT"]}
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/bin/pgferry", "ping", "127.0.0.1:6432"]
ENTRYPOINT ["/usr/bin/pgferry"]
CMD ["/etc/pgferry/pgferry.ini"]
