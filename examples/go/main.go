// An HTTPS server for a pod with a certmount volume. It takes up each renewal of its certificate
// without dropping a connection, with Go's standard library alone.
//
//	go run main.go [DIRECTORY [ADDRESS]]
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	certificate, err := follow(argument(1, "/tls"))
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", argument(2, ":8443"))
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(out, "serial %x\n", certificate.Load().Leaf.SerialNumber)
		}),
		TLSConfig: &tls.Config{
			// Asked for each new connection; those that are open stay as they are.
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return certificate.Load(), nil
			},
		},
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() {
		if err := server.ServeTLS(listener, "", ""); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()
	log.Printf("listening on %s, serial %x", listener.Addr(), certificate.Load().Leaf.SerialNumber)

	terminated, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	<-terminated.Done()
	patience, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		log.Fatal(err)
	}
}

// follow loads the certificate in directory, and again after each renewal. A certificate that
// cannot be used changes nothing.
func follow(directory string) (*atomic.Pointer[tls.Certificate], error) {
	// A renewal makes a new directory and swaps this link over to it.
	current := func() string {
		target, _ := os.Readlink(filepath.Join(directory, "..data"))
		return filepath.Join(directory, target)
	}
	files := current()
	certificate, err := load(files)
	if err != nil {
		return nil, err
	}
	var followed atomic.Pointer[tls.Certificate]
	followed.Store(certificate)
	go func() {
		// Reading a link costs next to nothing, and unlike a watch it never misses a swap.
		for range time.Tick(500 * time.Millisecond) {
			if current() == files {
				continue
			}
			files = current()
			if certificate, err := load(files); err != nil {
				log.Printf("keeping the old certificate: %v", err)
			} else {
				followed.Store(certificate)
				log.Printf("renewed, now serving serial %x", certificate.Leaf.SerialNumber)
			}
		}
	}()
	return &followed, nil
}

// load reads key and certificate from one directory, so that they belong together; it fails where
// they do not.
func load(files string) (*tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(files, "tls.crt"), filepath.Join(files, "tls.key"))
	return &certificate, err
}

func argument(number int, otherwise string) string {
	if number < len(os.Args) {
		return os.Args[number]
	}
	return otherwise
}
