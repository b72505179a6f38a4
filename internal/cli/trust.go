package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

// maxCertificates is how many bytes of a file with certificates are read.
const maxCertificates = 4 << 20

const insecureFlag = "insecure"

// trustFlags say which servers a command talks to over HTTPS, as curl's flags of
// these names do.
type trustFlags struct {
	file     string
	insecure bool
}

func (f *trustFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "cacert", "",
		"trust the CA certificates in this `file` (PEM) instead of the system's; Caddy's internal CA keeps its own in "+internalCA())
	cmd.Flags().BoolVarP(&f.insecure, insecureFlag, "k", false, "trust any certificate, as for a test site with a self-signed one")
	cmd.MarkFlagsMutuallyExclusive("cacert", insecureFlag)
}

// internalCA is where a Caddy of the same user keeps the root certificate of its
// internal CA.
func internalCA() string {
	return filepath.Join(caddy.AppDataDir(), "pki", "authorities", "local", "root.crt")
}

// config returns the configuration of TLS that the flags ask for, nil for the
// usual one.
func (f *trustFlags) config(cmd *cobra.Command) (*tls.Config, error) {
	if f.insecure {
		return &tls.Config{InsecureSkipVerify: true}, nil // asked for by name
	}
	if !cmd.Flags().Changed("cacert") {
		return nil, nil
	}
	roots, err := readCertificates(f.file)
	if err != nil {
		return nil, fmt.Errorf("--cacert: %w", err)
	}
	return &tls.Config{RootCAs: roots}, nil
}

func readCertificates(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, errors.New("the name is empty; give the path of a file with CA certificates")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxCertificates))
	if err != nil {
		return nil, err
	}
	if len(content) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s has no certificate in PEM in it, which begins with -----BEGIN CERTIFICATE-----", path)
	}
	return pool, nil
}

// explainTLS adds to an error of a TLS connection what can be done about it.
func explainTLS(err error) error {
	if remedy := remedyTLS(err); remedy != "" {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

func remedyTLS(err error) string {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "use a host name of the certificate, or --insecure"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "name its CA with --cacert, or use --insecure"
	}
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
		return "Caddy answers so where it has no certificate, or none yet, for the URL's host name"
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "should the URL begin with http://?"
	}
	return ""
}
