# trialog in a container: docker build -t trialog .
# The images that it is built with and runs on; others of the same libc do as well.
ARG BUILD=rust:1-slim-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILD} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin trialog && mkdir /empty

FROM ${BASE}
COPY --from=build /src/target/release/trialog /usr/bin/trialog
# No user of the machine outside. The store belongs to it; so does a volume that is made from it.
COPY --from=build --chown=65532:65532 /empty /data
USER 65532:65532
VOLUME /data
# For other machines it takes TLS (TRIALOG_TLS_CERT and TRIALOG_TLS_KEY) or, behind something that does
# TLS, TRIALOG_INSECURE=true: without either it says so and doesn't start.
ENV TRIALOG_DATA=/data TRIALOG_LISTEN=0.0.0.0:7171
EXPOSE 7171
# There is no HEALTHCHECK, as nothing in here asks: /health and /ready are for who runs it. SIGTERM, which
# Docker stops it with, ends it cleanly; give it time for that (--stop-timeout 90).
ENTRYPOINT ["/usr/bin/trialog"]
CMD ["serve"]
