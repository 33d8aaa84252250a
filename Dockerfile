# The image: one static binary and nothing else. deploy/image builds the same without Docker.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN deploy/binary /certmount

FROM scratch
COPY --from=build /certmount /certmount
ENTRYPOINT ["/certmount"]
CMD ["node"]
