# The operator's image. hack/images.sh builds an image with the same content without a container engine.
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
      org.opencontainers.image.description="Kubernetes operator that issues signed URLs and other short-lived credentials for single objects in object stores" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/valetkey/valet"
