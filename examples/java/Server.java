import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.Principal;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.SignatureException;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.KeyManager;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.X509ExtendedKeyManager;

/**
 * An HTTPS server for a pod with a certmount volume. It takes up each renewal of its certificate
 * without dropping a connection, with the JDK alone: {@code java Server.java [DIRECTORY
 * [ADDRESS:PORT]]}.
 *
 * <p>{@link FollowedKeys} is the part to copy: every server that takes an SSLContext or a
 * KeyManager (Netty, Jetty, Tomcat, gRPC) can use it.
 */
public final class Server {
    public static void main(String[] arguments) throws Exception {
        var directory = Path.of(arguments.length > 0 ? arguments[0] : "/tls");
        var address = arguments.length > 1 ? arguments[1] : "0.0.0.0:8443";
        var keys = new FollowedKeys(directory);
        var tls = SSLContext.getInstance("TLS");
        tls.init(new KeyManager[] {keys}, null, null);

        // Without it, answers wait for the client's delayed acknowledgements.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        var host = address.substring(0, address.lastIndexOf(':'));
        var port = Integer.parseInt(address.substring(host.length() + 1));
        var server = HttpsServer.create(new InetSocketAddress(host, port), 128);
        server.setHttpsConfigurator(new HttpsConfigurator(tls));
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            var body = ("serial " + keys.serial() + "\n").getBytes(StandardCharsets.US_ASCII);
            exchange.getResponseHeaders().set("Content-Type", "text/plain");
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
        System.out.printf(
                "listening on %s:%d, serial %s%n", host, server.getAddress().getPort(), keys.serial());
    }

    /** Key and certificate for new connections. They follow the files in a directory. */
    static final class FollowedKeys extends X509ExtendedKeyManager {
        private record Identity(String alias, PrivateKey key, X509Certificate[] chain) {}

        private final Path directory;
        private String files;
        private volatile Identity latest;
        // A handshake asks for an alias, then for its key, then for its certificate. One that began
        // before a renewal goes on with what it began with.
        private volatile Identity previous;

        FollowedKeys(Path directory) throws IOException, GeneralSecurityException {
            this.directory = directory;
            files = currentFiles();
            latest = load(files);
            var thread = Executors.newSingleThreadScheduledExecutor(task -> {
                var daemon = new Thread(task, "tls");
                daemon.setDaemon(true);
                return daemon;
            });
            // Reading a link costs next to nothing, and unlike a watch it never misses a swap.
            thread.scheduleWithFixedDelay(this::follow, 500, 500, TimeUnit.MILLISECONDS);
        }

        String serial() {
            return latest.chain()[0].getSerialNumber().toString(16);
        }

        /** The directory of the files: a renewal makes a new one and swaps this link over to it. */
        private String currentFiles() throws IOException {
            return Files.readSymbolicLink(directory.resolve("..data")).toString();
        }

        private void follow() {
            try {
                var now = currentFiles();
                if (now.equals(files)) {
                    return;
                }
                files = now;
                var renewed = load(now);
                previous = latest;
                latest = renewed;
                System.out.println("renewed, now serving serial " + serial());
            } catch (IOException | GeneralSecurityException | RuntimeException error) {
                System.out.println("keeping the old certificate: " + error.getMessage());
            }
        }

        /** Key and certificate of one directory, so that they belong together. */
        private Identity load(String files) throws IOException, GeneralSecurityException {
            var at = directory.resolve(files);
            var pem = new ByteArrayInputStream(Files.readAllBytes(at.resolve("tls.crt")));
            var chain = CertificateFactory.getInstance("X.509").generateCertificates(pem)
                    .toArray(X509Certificate[]::new);
            if (chain.length == 0) {
                throw new GeneralSecurityException("tls.crt holds no certificate");
            }
            var publicKey = chain[0].getPublicKey();
            // PKCS#8, as certmount writes all keys but RSA; for those ask for key-encoding PKCS8.
            var armor = "-----(BEGIN|END) PRIVATE KEY-----";
            var base64 = Files.readString(at.resolve("tls.key")).replaceAll(armor, "");
            var der = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(base64));
            var key = KeyFactory.getInstance(publicKey.getAlgorithm()).generatePrivate(der);
            checkTogether(key, publicKey);
            return new Identity(files, key, chain);
        }

        private static void checkTogether(PrivateKey key, PublicKey publicKey)
                throws GeneralSecurityException {
            var signature = Signature.getInstance(switch (publicKey.getAlgorithm()) {
                case "EC" -> "SHA256withECDSA";
                case "RSA" -> "SHA256withRSA";
                default -> "EdDSA";
            });
            var text = new byte[] {1, 2, 3};
            signature.initSign(key);
            signature.update(text);
            var signed = signature.sign();
            signature.initVerify(publicKey);
            signature.update(text);
            if (!signature.verify(signed)) {
                throw new SignatureException("tls.crt and tls.key do not match");
            }
        }

        @Override
        public String chooseEngineServerAlias(String type, Principal[] issuers, SSLEngine engine) {
            var identity = latest;
            return identity.key().getAlgorithm().equals(type) ? identity.alias() : null;
        }

        @Override
        public String chooseServerAlias(String type, Principal[] issuers, Socket socket) {
            return chooseEngineServerAlias(type, issuers, null);
        }

        @Override
        public String[] getServerAliases(String type, Principal[] issuers) {
            var alias = chooseEngineServerAlias(type, issuers, null);
            return alias == null ? null : new String[] {alias};
        }

        @Override
        public PrivateKey getPrivateKey(String alias) {
            var identity = identity(alias);
            return identity == null ? null : identity.key();
        }

        @Override
        public X509Certificate[] getCertificateChain(String alias) {
            var identity = identity(alias);
            return identity == null ? null : identity.chain();
        }

        private Identity identity(String alias) {
            // In this order, as a renewal moves one from the first to the second.
            for (var identity : new Identity[] {latest, previous}) {
                if (identity != null && identity.alias().equals(alias)) {
                    return identity;
                }
            }
            return null;
        }

        @Override
        public String[] getClientAliases(String type, Principal[] issuers) {
            return null;
        }

        @Override
        public String chooseClientAlias(String[] types, Principal[] issuers, Socket socket) {
            return null;
        }
    }
}
