# The program alone, statically linked, without a shell, as nobody's user.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools && rm -rf /var/lib/apt/lists/*
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
ENV SQLX_OFFLINE=true
RUN cargo build --release --locked --no-default-features --bin valuecanvas-billing --target "$(uname -m)-unknown-linux-musl" \
  && mkdir -p /image/usr/local/bin /image/etc/valuecanvas-billing \
  && cp target/*-unknown-linux-musl/release/valuecanvas-billing /image/usr/local/bin/ \
  && cp config/plans.toml /image/etc/valuecanvas-billing/

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /image/ /
ENV LISTEN_ADDR=0.0.0.0:8080 LOG_FORMAT=json PLANS_FILE=/etc/valuecanvas-billing/plans.toml
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/valuecanvas-billing"]
CMD ["serve"]
