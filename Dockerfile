# The image: one static binary, and the CAs that servers of issuers may have their certificates from.
# deploy/image builds the same without Docker.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN deploy/binary /certmount

FROM scratch
COPY --from=build /certmount /certmount
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENTRYPOINT ["/certmount"]
CMD ["node"]
