# Builds containerd-shim-seuss-v2 and seussctl on Debian 12, so that they run on Debian 12 and later and on other distributions with
# glibc 2.36 or later.
#
#   docker build --target binaries --output type=local,dest=out .     the two binaries in ./out
#   docker build --tag seuss .                                        an image with both
#   docker run --rm --device /dev/kvm seuss run --rootfs / -- /bin/uname -a
#
# The shim itself belongs on the node, in containerd's PATH, not into a container.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    --mount=type=cache,target=/src/guest/target \
    cargo build --release --locked --package seuss-shim \
    && mkdir /out \
    && cp target/release/containerd-shim-seuss-v2 target/release/seussctl /out/ \
    && strip --strip-debug /out/*

FROM scratch AS binaries
COPY --from=build /out/ /

FROM debian:bookworm-slim
COPY --from=build /out/ /usr/local/bin/
ENTRYPOINT ["seussctl"]
CMD ["--help"]
