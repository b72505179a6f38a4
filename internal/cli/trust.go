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

// maxCertificates is how many bytes of a certificate file are read.
const maxCertificates = 4 << 20

const insecureFlag = "insecure"

// trustFlags say which certificates a command trusts. They are named and work like
// curl's.
type trustFlags struct {
	file     string
	insecure bool
}

func (f *trustFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "cacert", "",
		"trust the CA certificates in this PEM `file` instead of the system's; that of Caddy's internal CA is "+internalCA())
	cmd.Flags().BoolVarP(&f.insecure, insecureFlag, "k", false, "trust any certificate")
	cmd.MarkFlagsMutuallyExclusive("cacert", insecureFlag)
}

// internalCA returns the path of the internal CA's root certificate, of a Caddy that
// the same user runs.
func internalCA() string {
	return filepath.Join(caddy.AppDataDir(), "pki", "authorities", "local", "root.crt")
}

// config returns the TLS configuration that the flags ask for, nil for the usual
// one.
func (f *trustFlags) config(cmd *cobra.Command) (*tls.Config, error) {
	if f.insecure {
		return &tls.Config{InsecureSkipVerify: true}, nil // the user asks for it
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
		return nil, errors.New("the path is empty; name a file with CA certificates")
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
		return nil, fmt.Errorf("%s contains no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----", path)
	}
	return pool, nil
}

// explainTLS adds to an error of TLS what the user can do about it.
func explainTLS(err error) error {
	if remedy := remedyTLS(err); remedy != "" {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

func remedyTLS(err error) string {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "use a host name that the certificate has, or --insecure"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "name its CA with --cacert, or use --insecure"
	}
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
		return "Caddy says this if it has no certificate, or none yet, for the URL's host name"
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "should the URL begin with http://?"
	}
	return ""
}
