# Builds containerd-shim-seuss-v2, seussctl and seuss-snapshotter on Debian 12, so that they run on Debian 12 and later and on other distributions with
# glibc 2.36 or later.
#
#   docker build --target binaries --output type=local,dest=out .     the binaries in ./out
#   docker build --tag seuss .                                        an image with them
#   docker run --rm --device /dev/kvm seuss run --rootfs / -- /bin/uname -a
#
# Shim and snapshotter belong on the node, not into a container: the shim in containerd's PATH, the snapshotter as a service.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    --mount=type=cache,target=/src/guest/target \
    cargo build --release --locked --package seuss-shim --package seuss-snapshotter \
    && mkdir /out \
    && cp target/release/containerd-shim-seuss-v2 target/release/seussctl target/release/seuss-snapshotter /out/ \
    && strip --strip-debug /out/*

FROM scratch AS binaries
COPY --from=build /out/ /

FROM debian:bookworm-slim
COPY --from=build /out/ /usr/local/bin/
ENTRYPOINT ["seussctl"]
CMD ["--help"]
