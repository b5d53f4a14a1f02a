# The operator's image, for people with Docker; hack/images.sh makes the same one without an engine.
#
#   docker build --tag ghcr.io/valetkey/valet:VERSION .

FROM rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1 AS build
WORKDIR /src
COPY . .
RUN install -D --mode 0755 "$(hack/static.sh)" /image/valet \
 && install -D --mode 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /image /
USER 65532:65532
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["/valet"]
CMD ["controller"]
LABEL org.opencontainers.image.title="valet" \
      org.opencontainers.image.description="Hands out valet keys: signed, scoped, time-limited URLs for one object in an object store" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/valetkey/valet"
