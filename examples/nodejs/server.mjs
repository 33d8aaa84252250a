// An HTTPS server for a pod with a certmount volume. It takes up each renewal of its certificate
// without dropping a connection, with Node.js alone.
//
//   node server.mjs [DIRECTORY [ADDRESS:PORT]]

import { X509Certificate } from "node:crypto";
import { readFileSync, readlinkSync, watch } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";

const [directory = "/tls", address = "0.0.0.0:8443"] = process.argv.slice(2);

// Key and certificate of one directory, so that they belong together.
function load() {
  // A renewal makes a new directory and swaps this link over to it.
  const files = join(directory, readlinkSync(join(directory, "..data")));
  const cert = readFileSync(join(files, "tls.crt"));
  const key = readFileSync(join(files, "tls.key"));
  return { cert, key, serial: new X509Certificate(cert).serialNumber.toLowerCase() };
}

// The directory, for the link in it: a watch on tls.crt stays with the old file. And before the
// first load, so that no renewal is missed.
watch(directory, (_event, name) => name === "..data" && renew());

let served = load();
const server = createServer(served, (_request, response) => {
  response.setHeader("Content-Type", "text/plain");
  response.end(`serial ${served.serial}\n`);
});

function renew() {
  try {
    const latest = load();
    // For new connections; those that are open stay as they are. Throws where key and certificate
    // do not match, and then nothing changes.
    server.setSecureContext(latest);
    served = latest;
    console.log(`renewed, now serving serial ${served.serial}`);
  } catch (error) {
    console.log(`keeping the old certificate: ${error.message}`);
  }
}

const colon = address.lastIndexOf(":");
server.listen(Number(address.slice(colon + 1)), address.slice(0, colon), () => {
  const { address, port } = server.address();
  console.log(`listening on ${address}:${port}, serial ${served.serial}`);
});

process.on("SIGTERM", () => {
  server.close(() => process.exit());
  // Clients that hold connections open without asking for anything must not hold up the pod's end.
  setTimeout(() => process.exit(), 5_000);
});
