# syntax=docker/dockerfile:1
# Builds llm-proxy and leaves the binary alone in a small image. The container runs as uid 10001, keeps its
# state in /app/data and answers its own health check.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake gcc \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# dependencies first, so that an edit of the sources does not compile them again
RUN mkdir -p src benches tests/it \
 && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && cargo fetch --locked
COPY src src
COPY migrations migrations
COPY benches benches
COPY tests tests
COPY conf conf
COPY docs docs
RUN cargo build --locked --release --bin llm-proxy \
 && cp "${CARGO_TARGET_DIR:-target}/release/llm-proxy" /llm-proxy

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 llm-proxy \
 && useradd --uid 10001 --gid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin llm-proxy \
 && install -d -o llm-proxy -g llm-proxy -m 0700 /app/data \
 && install -d -o llm-proxy -g llm-proxy -m 0755 /app /app/conf
COPY --from=build /llm-proxy /usr/local/bin/llm-proxy
WORKDIR /app
USER llm-proxy
# inside the container loopback is nobody's: the sidecar listens on all addresses, and its metrics need a bearer
ENV MANAGEMENT_LISTEN_ADDR=0.0.0.0:8081 \
    MANAGEMENT_ON_PROXY_LISTENER=off
VOLUME ["/app/data"]
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["llm-proxy", "healthcheck"]
ENTRYPOINT ["llm-proxy"]
CMD ["server"]
